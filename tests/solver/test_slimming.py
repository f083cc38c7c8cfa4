"""The L1 penalty on the factors of batch normalisation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffe_kd.core.errors import SolverError
from tests.solver.training import (
    DATA,
    DISTIL,
    SETTINGS,
    assert_same_weights,
    lines_of,
    make_solver,
    solved,
    weights_of,
)

NET = (
    DATA
    + """
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
  inner_product_param { num_output: 6 weight_filler { type: "gaussian" std: 1 } } }
layer { name: "bn" type: "BatchNorm" bottom: "ip1" top: "bn" }
layer { name: "factor" type: "Scale" bottom: "bn" top: "bn" PARAM
  scale_param { bias_term: true filler { type: "uniform" min: -1 max: 1 } } }
layer { name: "relu" type: "ReLU" bottom: "bn" top: "bn" }
layer { name: "plain" type: "Scale" bottom: "bn" top: "plain" }
layer { name: "ip" type: "InnerProduct" bottom: "plain" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "gaussian" std: 1 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
)
RATE = 0.1  # of SETTINGS
# One rounding of a float32 gradient and one of the update.
CLOSE = 1e-6


def write(param: str = "") -> None:
    Path("net.prototxt").write_text(NET.replace("PARAM", param))


@pytest.fixture(autouse=True)
def _net(folder: Path) -> None:
    write()


def differences(more: str = "", slimming: float = 0.01) -> dict[str, list[np.ndarray]]:
    """Return what an update with slimming does to each blob beyond one without it."""
    solvers = [make_solver(SETTINGS + more + x) for x in ("", f" slimming: {slimming}")]
    for solver in solvers:
        solver.step(1)
    free, slim = (weights_of(solver) for solver in solvers)
    return {k: [b - a for a, b in zip(free[k], slim[k], strict=True)] for k in free}


def signs() -> np.ndarray:
    return np.sign(weights_of(make_solver())["factor"][0])


@pytest.mark.parametrize("more", ["", "iter_size: 3 ", "weight_decay: 0.1 "])
def test_penalty_is_a_subgradient_on_the_factors_behind_batch_norm(more: str) -> None:
    found = differences(more)
    np.testing.assert_allclose(found["factor"][0], -RATE * 0.01 * signs(), atol=CLOSE)
    del found["factor"][0]
    assert not any(blob.any() for blobs in found.values() for blob in blobs)


def test_penalty_is_scaled_by_decay_mult() -> None:
    write("param { decay_mult: 0.5 }")
    np.testing.assert_allclose(differences()["factor"][0], -RATE * 0.005 * signs(), atol=CLOSE)


def test_factors_of_the_layer_type_bn_count() -> None:
    bn = 'layer { name: "factor" type: "BN" bottom: "ip1" top: "bn" bn_param { '
    bn += 'slope_filler { type: "constant" value: 1 } } }'
    head, _, rest = NET.partition('layer { name: "bn"')
    Path("net.prototxt").write_text(head + bn + rest[rest.index('layer { name: "relu"') :])
    np.testing.assert_allclose(differences()["factor"][0], -RATE * 0.01, atol=CLOSE)


def test_strong_penalty_brings_factors_down_and_the_log_counts_them() -> None:
    more = "max_iter: 40 momentum: 0.5 "
    free, slim = solved(SETTINGS + more), solved(SETTINGS + more + "slimming: 0.2")
    size = {s: float(np.abs(weights_of(s)["factor"][0]).mean()) for s in (free, slim)}
    assert size[slim] < size[free] / 2
    assert "of 6 factors are below 1% of the greatest" in "\n".join(lines_of(slim))


def test_slimming_of_0_keeps_every_bit() -> None:
    free, off = solved(SETTINGS), solved(SETTINGS + "slimming: 0")
    assert_same_weights(weights_of(free), weights_of(off))
    assert len(free.callbacks) == len(off.callbacks)


def test_resumed_run_gives_the_same_bits() -> None:
    run = SETTINGS + "max_iter: 6 snapshot: 3 snapshot_prefix: 's' slimming: 0.01 momentum: 0.9"
    solved(run)
    before = Path("s_iter_6.caffemodel").read_bytes()
    make_solver(run).solve("s_iter_3.solverstate")
    assert Path("s_iter_6.caffemodel").read_bytes() == before


def test_teacher_is_left_alone() -> None:
    solver = make_solver(DISTIL + "slimming: 0.1")
    teacher = {k: v for k, v in weights_of(solver).items() if k.startswith("teacher/")}
    solver.solve()
    assert_same_weights(teacher, {k: weights_of(solver)[k] for k in teacher})


@pytest.mark.parametrize("value", ["-1", "nan", "inf"])
def test_strength_that_is_none_is_refused_with_its_line(value: str) -> None:
    with pytest.raises(SolverError, match=r"solver.prototxt:2: slimming must be 0 or more"):
        make_solver(SETTINGS + f"slimming: {value}\n")


@pytest.mark.parametrize("param", ["param { lr_mult: 0 }", "param { decay_mult: 0 }"])
def test_net_without_such_factors_is_refused(param: str) -> None:
    write(param)
    with pytest.raises(SolverError, match="Scale layers that stand behind a BatchNorm.*none that"):
        make_solver(SETTINGS + "slimming: 0.01\n")
