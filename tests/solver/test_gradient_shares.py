"""The shares of loss terms in the student's gradient, and that measuring changes nothing."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from caffe_kd.solver.options import Options
from caffe_kd.solver.plan import read_plan
from caffe_kd.solver.solver import Solver
from tests.solver.training import (
    DISTIL,
    DISTILLER,
    MemoryLog,
    assert_same_weights,
    lines_of,
    weights_of,
)

LINE = re.compile(r"    Gradient share: (\S+) = (\S+) \(norm (\S+)\)")
# The log has four digits.
LOGGED = 6e-4
WITH_LABEL = DISTILLER.replace(
    'top: "kd"', 'bottom: "label" top: "kd" distilling_loss_param { alpha: 0.6 }'
)


def solver_of(settings: str, every: int, **options: object) -> Solver:
    Path("solver.prototxt").write_text(settings)
    asked = Options(gradient_shares=every, **options)  # type: ignore[arg-type]
    return Solver(read_plan("solver.prototxt"), MemoryLog(), options=asked)


def shares_of(solver: Solver) -> list[tuple[str, float, float]]:
    found = [LINE.fullmatch(line) for line in lines_of(solver)]
    return [(m[1], float(m[2]), float(m[3])) for m in found if m]


@pytest.mark.parametrize("iter_size", [1, 3])
def test_norms_are_those_of_each_terms_own_gradient(folder: Path, iter_size: int) -> None:
    (folder / "distiller.prototxt").write_text(WITH_LABEL)
    solver = solver_of(DISTIL + f"max_iter: 1 iter_size: {iter_size}", 1)
    twin = Solver(read_plan("solver.prototxt"), MemoryLog())
    solver.step(1)
    sums: dict[str, list[torch.Tensor]] = {}
    kd = next(node.layer for node in twin.net.nodes if node.layer.name == "kd")
    for _ in range(iter_size):
        twin.net()
        blobs = twin.net.blobs
        student, teacher, label = (blobs[n] for n in ("ip", "teacher/ip", "label"))
        parts = kd.terms(student, teacher, label)
        terms = {"loss": blobs["loss"], **{f"kd/{k}": v for k, v in parts.items()}}
        for name, term in terms.items():
            blob = [p.blob for p in twin.net.params if p.layer.name == "ip"]
            found = torch.autograd.grad(term, blob, retain_graph=True)
            so_far = sums.get(name, [torch.zeros_like(g) for g in found])
            sums[name] = [a + b for a, b in zip(so_far, found, strict=True)]
    norms = {
        name: math.sqrt(sum(float(g.square().sum()) for g in grads)) / iter_size
        for name, grads in sums.items()
    }
    all_shares = shares_of(solver)
    assert {name for name, _, _ in all_shares} == {"loss", "kd/soft", "kd/hard"}
    for name, share, norm in all_shares:
        assert norm == pytest.approx(norms[name], rel=LOGGED)
        assert share == pytest.approx(norms[name] / sum(norms.values()), rel=LOGGED)


@pytest.mark.parametrize("cache", ["off", "memory"])
def test_training_is_the_same_to_the_bit(folder: Path, cache: str) -> None:
    settings = DISTIL + "max_iter: 5 iter_size: 2 momentum: 0.9 weight_decay: 0.01"
    plain = solver_of(settings, 0, teacher_cache=cache)
    measured = solver_of(settings, 2, teacher_cache=cache)
    for solver in (plain, measured):
        solver.step(5)
    assert_same_weights(weights_of(plain), weights_of(measured))
    assert shares_of(plain) == []
    assert [name for name, _, _ in shares_of(measured)] == ["loss", "kd"] * 3
    heads = [line for line in lines_of(measured) if "gradient shares" in line]
    assert [head.split(",")[0] for head in heads] == ["Iteration 0", "Iteration 2", "Iteration 4"]
    assert heads[0].endswith("in 15 parameters of the student")


def test_the_distillers_own_parameters_do_not_count(folder: Path) -> None:
    content = """
layer { name: "regressor" type: "InnerProduct" bottom: "data" top: "regressor"
  inner_product_param { num_output: 6 weight_filler { type: "xavier" } } }
layer { name: "hint" type: "HintLoss" bottom: "regressor" bottom: "teacher/norm" }
"""
    (folder / "distiller.prototxt").write_text(content)
    solver = solver_of(DISTIL + "max_iter: 1", 1)
    solver.step(1)
    assert [(name, share) for name, share, _ in shares_of(solver)] == [("loss", 1), ("hint", 0)]


def test_debug_info_shows_the_gradients_of_the_whole(folder: Path) -> None:
    settings = DISTIL + "max_iter: 1 display: 1 debug_info: true"
    plain, measured = solver_of(settings, 0), solver_of(settings, 1)
    for solver in (plain, measured):
        solver.step(1)
    backward = [[x for x in lines_of(s) if "[Backward]" in x] for s in (plain, measured)]
    assert backward[0] == backward[1] and backward[0]


def test_term_of_weight_0_comes_in_with_its_schedule(folder: Path) -> None:
    content = DISTILLER.replace(
        'top: "kd"',
        'top: "kd" loss_weight_schedule { point { value: 0 } point { iter: 1 value: 1 } }',
    )
    (folder / "distiller.prototxt").write_text(content)
    solver = solver_of(DISTIL + "max_iter: 2", 1)
    solver.step(2)
    assert [name for name, _, _ in shares_of(solver)] == ["loss", "loss", "kd"]
