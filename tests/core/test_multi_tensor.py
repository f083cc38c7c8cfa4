from __future__ import annotations

import ast
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from caffe_kd.core.multi_tensor import adam_, foreach, sgd_
from tests.helpers import hide_kernels

PACKAGE = Path(__file__).parents[2] / "caffe_kd"
SHAPES = [(2, 3), (4,), ()]
# The kernels and the methods round the same few operations of float64, in another order.
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def tensors(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(s, generator=generator, dtype=torch.float64) + 0.1 for s in SHAPES]


def both(compute, monkeypatch) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Return pairs of what ``compute`` returns with torch's kernels and without."""
    with_kernels = compute()
    hide_kernels(monkeypatch)
    return zip(with_kernels, compute(), strict=True)


@pytest.mark.parametrize(
    ("method", "operands", "options"),
    [
        ("add", (0.5,), {}),
        ("mul", (0.5,), {}),
        ("sign", (), {}),
        ("sqrt", (), {}),
        ("norm", (), {}),
        ("add", (tensors(1),), {"alpha": 0.3}),
        ("copy_", (tensors(1),), {}),
        ("mul_", (0.5,), {}),
        ("mul_", (tensors(1),), {}),
        ("div_", (tensors(1),), {}),
        ("sub_", (tensors(1),), {"alpha": 0.3}),
        ("addcmul_", (tensors(1), tensors(2)), {"value": 0.3}),
        ("addcdiv_", (tensors(1), tensors(2)), {"value": 0.3}),
    ],
)
def test_methods_one_by_one_give_what_the_kernels_give(method, operands, options, monkeypatch):
    def compute():
        mine = tensors(0)
        result = foreach(method, mine, *operands, **options)
        return mine if method.endswith("_") else result

    for got, want in both(compute, monkeypatch):
        torch.testing.assert_close(got, want, **CLOSE)
        assert got.shape == want.shape


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_sgd_without_its_kernel(rate, momentum, decay, monkeypatch):
    def compute():
        params, history = tensors(0), tensors(1)
        sgd_(params, tensors(2), history, rate, momentum, decay)
        return params + history

    for got, want in both(compute, monkeypatch):
        torch.testing.assert_close(got, want, **CLOSE)


def test_sgd_at_a_rate_beyond_float32_diverges_without_an_error():
    params = [torch.ones(2)]
    sgd_(params, [torch.ones(2)], [torch.zeros(2)], rate=1e39, momentum=0.0, decay=0.1)
    assert params[0].tolist() == [-math.inf, -math.inf]


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_adam_without_its_kernel(step, decay, monkeypatch):
    def compute():
        params, moments, grads = tensors(0), (tensors(1), tensors(2)), tensors(3)
        adam_(params, grads, moments, (0.9, 0.99), 0.1, decay, delta=1e-3, step=step)
        return params + moments[0] + moments[1] + grads

    for got, want in both(compute, monkeypatch):
        torch.testing.assert_close(got, want, **CLOSE)


@pytest.mark.parametrize("error", [TypeError("arguments"), NotImplementedError("no such device")])
def test_kernel_that_cannot_be_called_is_done_without(error, monkeypatch):
    hide_kernels(monkeypatch, error)
    params = [torch.ones(2), torch.ones(3)]
    foreach("add_", params, 1.0)
    assert [p.tolist() for p in params] == [[2, 2], [2, 2, 2]]


def test_error_of_the_computation_is_not_hidden():
    with pytest.raises(RuntimeError, match="size"):
        foreach("add_", [torch.ones(2)], [torch.ones(3)])
    assert math.isclose(float(foreach("norm", [torch.full((4,), 2.0)])[0]), 4.0)


def imports(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """Return line, dotted name and name in the file of what comes from other packages."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(alias.name, alias.asname or alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [(f"{node.module}.{a.name}", a.asname or a.name) for a in node.names]
        else:
            continue
        for name, called in names:
            if name.split(".")[0] not in {*sys.stdlib_module_names, "caffe_kd"}:
                yield node.lineno, name, called.split(".")[0]


def private_names(path: Path) -> list[str]:
    """Return the names in a file that another package keeps to itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    foreign = list(imports(tree))
    uses = [(line, name) for line, name, _ in foreign]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            if name.split(".")[0] in {called for _, _, called in foreign}:
                uses.append((node.lineno, name))
    return [f"{line}: {name}" for line, name in uses if re.match(r"[\w.]+\._(?!_)", name)]


def test_private_names_of_other_packages_are_used_here_alone():
    found = {p: private_names(p) for p in PACKAGE.rglob("*.py")}
    used = {str(path.relative_to(PACKAGE)): names for path, names in found.items() if names}
    assert list(used) == [str(Path("core", "multi_tensor.py"))], used
