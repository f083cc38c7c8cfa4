from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

import caffe_kd as caffe
from caffe_kd.core.errors import NonFiniteLoss, SolverError
from caffe_kd.pycaffe.glog import LOG
from tests.pycaffe.nets import BRANCHES, fill, write
from tests.pycaffe.test_solver import (
    CLOSE,
    ROWS_NET,
    _quiet,
    assert_same,
    branches_solver,
    rows_solver,
    weights,
)
from tests.solver.test_debug_info import numbers_of, without_numbers
from tests.solver.training import write_rows

__all__ = ["_quiet"]

HOOKS = ("before_forward", "after_forward", "before_backward", "after_backward")


# ---- hooks, which Caffe calls in the solver's passes too


def test_step_calls_the_hooks_of_its_net_in_every_pass(tmp_path: Path) -> None:
    solver = rows_solver(tmp_path, "iter_size: 2")
    calls: list[tuple[str, int, int]] = []
    for kind in HOOKS:
        getattr(solver.net, kind)(lambda i, kind=kind: calls.append((kind, solver.iter, i)))
    solver.add_callback(
        lambda: calls.append(("start", solver.iter, 0)),
        lambda: calls.append(("ready", solver.iter, 0)),
    )
    solver.step(2)
    layers = range(len(solver.net.layers))
    one_pass = [(kind, i) for i in layers for kind in HOOKS[:2]]
    one_pass += [(kind, i) for i in reversed(layers) for kind in HOOKS[2:]]
    wanted = [("start", 0), *one_pass, *one_pass, ("ready", 0)]
    assert calls == [(kind, it, i) for it in range(2) for kind, i in wanted]


@pytest.mark.parametrize("make", [rows_solver, branches_solver])
@pytest.mark.parametrize("more", ["momentum: 0.9", 'type: "Adam" iter_size: 3'])
def test_step_with_hooks_trains_as_without_and_shows_as_much(
    tmp_path: Path, make, more: str
) -> None:
    solver, other = make(tmp_path, more), make(tmp_path, more)
    held = [a for b in solver.net.params.values() for a in (b[0].data, b[0].diff)]
    solver.net.after_backward(lambda layer: None)
    for count in (1, 3):
        solver.step(count)
        other.step(count)
        assert_same(weights(solver.net), weights(other.net), **CLOSE)
        for name, blob in other.net.blobs.items():
            mine = solver.net.blobs[name]
            np.testing.assert_allclose(mine.data, blob.data, err_msg=name, **CLOSE)
            np.testing.assert_allclose(mine.diff, blob.diff, err_msg=name, **CLOSE)
        for name, blobs in other.net.params.items():
            for one, two in zip(solver.net.params[name], blobs, strict=True):
                np.testing.assert_allclose(one.diff, two.diff, err_msg=name, **CLOSE)
    assert all(array.any() for array in held)


def test_hook_of_a_step_changes_blobs_and_gradients(tmp_path: Path) -> None:
    solver = rows_solver(tmp_path, "")
    ip2, loss = (solver.net._layer_names.index(name) for name in ("ip2", "loss"))

    def blank(layer: int) -> None:
        if layer == ip2:
            solver.net.blobs["ip2"].data[...] = 0

    def stop(layer: int) -> None:
        if layer == loss:
            solver.net.blobs["sum"].diff[...] = 0

    solver.net.after_forward(blank)
    solver.step(1)
    np.testing.assert_array_equal(solver.net.blobs["sum"].data, solver.net.blobs["ip3"].data)
    solver.net.after_backward(stop)
    before = weights(solver.net)
    solver.step(2)
    assert_same(before, weights(solver.net))


def test_weights_that_a_hook_writes_are_what_is_updated(tmp_path: Path) -> None:
    solver = branches_solver(tmp_path)  # whose convolutions lie in another order in memory
    held = solver.net.params["conv1"][0].data

    def write_weights(layer: int) -> None:
        if layer == 0:
            held[...] = 5

    solver.net.after_backward(write_weights)
    for _ in range(2):
        solver.step(2)
        assert 0 < np.abs(held - 5).max() < 0.5


def test_solve_with_hooks_trains_and_stops_at_a_loss_that_is_no_number(tmp_path: Path) -> None:
    solver = rows_solver(tmp_path, "display: 1")
    solver.param.max_iter = 3
    solver.net.before_forward(lambda layer: None)
    solver.solve()
    assert solver.iter == 3
    assert (tmp_path / "rows_iter_3.caffemodel").exists()
    solver.net.params["ip3"][0].data[...] = np.nan
    with pytest.raises(NonFiniteLoss):
        solver.step(1)
    assert np.isnan(solver.net.blobs["loss"].data)


PRINTED = 1e-4  # six digits, and float32 sums added in another order


@pytest.mark.parametrize("make", [rows_solver, branches_solver])
def test_debug_info_logs_the_same_with_hooks_as_without(
    tmp_path: Path, make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOG_minloglevel", "0")
    monkeypatch.setattr(LOG, "_stream", None)
    logged = []
    for hooks in (False, True):
        solver = make(tmp_path, "debug_info: true display: 2 iter_size: 2 momentum: 0.9")
        if hooks:
            solver.net.after_backward(lambda layer: None)
        stream = io.StringIO()
        monkeypatch.setattr(LOG, "_stream", stream)
        solver.step(4)
        lines = [line.partition("] ")[2] for line in stream.getvalue().splitlines()]
        logged.append([line for line in lines if not line.startswith("Iteration")])
    plain, hooked = logged
    for kind, passes in (("[Forward]", 2), ("[Backward]", 2), ("[Update]", 1)):
        assert any(kind in line for line in plain), kind
        assert [kind in line for line in hooked].count(True) % (2 * passes) == 0
    assert without_numbers(hooked) == without_numbers(plain)
    for one, two in zip(plain, hooked, strict=True):
        assert numbers_of(two) == pytest.approx(numbers_of(one), rel=PRINTED, abs=1e-7), one


# ---- schedules


def scheduled_solver(folder: Path, points: str, net: str = BRANCHES):
    """Return a solver whose losses are weighted by the iteration."""
    schedule = f"loss_weight_schedule {{ {points} }}"
    for weight in ("loss_weight: 0.5", "loss_weight: 0.25"):
        assert weight in net
        net = net.replace(weight, f"{weight} {schedule}")
    write(folder, net)
    text = (
        'net: "net.prototxt" base_lr: 0.001 lr_policy: "fixed" max_iter: 9 random_seed: 5 '
        'momentum: 0.9 snapshot_prefix: "rows"'
    )
    solver = caffe.get_solver(write(folder, text, "solver.prototxt"))
    fill(solver.net)
    return solver


RISING = "point { value: 0 } point { iter: 4 value: 2 }"


# The weight of a loss that another layer takes too lies with its first copy.
SHARED = (
    BRANCHES
    + 'layer { name: "half" type: "Power" bottom: "loss" top: "half" power_param { scale: 0.5 } }'
)


@pytest.mark.parametrize("net", [BRANCHES, SHARED], ids=["alone", "shared"])
def test_passes_weigh_losses_as_the_solver_does_in_its_iteration(tmp_path: Path, net: str) -> None:
    solver = scheduled_solver(tmp_path, RISING, net)
    other = scheduled_solver(tmp_path, RISING, net)
    for iteration in range(6):
        other.net.clear_param_diffs()
        loss = other.net._forward(0, len(other.net.layers) - 1)
        other.net.backward()
        other.apply_update()
        solver.step(1)
        assert_same(weights(solver.net), weights(other.net), **CLOSE)
        factor = min(iteration / 2, 2)
        values = [float(solver.net.blobs[n].data) for n in ("loss", "more")]
        assert loss == pytest.approx(factor * (0.5 * values[0] + 0.25 * values[1]), rel=1e-4)


def test_backward_after_a_step_has_the_weights_of_the_solvers_iteration(tmp_path: Path) -> None:
    solver = scheduled_solver(tmp_path, RISING)
    assert solver.net.blob_loss_weights["loss"] == 0
    held = solver.net.blobs["loss"].diff
    assert held == 0
    solver.step(3)
    assert solver.net.blob_loss_weights["loss"] == 0.75  # 0.5 x 3 / 2
    assert solver.net._blob_loss_weights[solver.net._blob_names.index("more")] == 0.375
    assert held == 0.75
    assert solver.net.blobs["more"].diff == 0.375
    solver.snapshot()
    other = scheduled_solver(tmp_path, RISING)
    other.restore("rows_iter_3.solverstate")
    for net in (solver.net, other.net):
        net.clear_param_diffs()
        net.forward()
        net.backward()
    for name, blobs in solver.net.params.items():
        np.testing.assert_allclose(other.net.params[name][0].diff, blobs[0].diff, **CLOSE)
    assert solver.net.params["ip"][0].diff.any()


def test_hooks_and_schedules_go_together(tmp_path: Path) -> None:
    solver, other = (scheduled_solver(tmp_path, RISING) for _ in range(2))
    solver.net.before_backward(lambda layer: None)
    solver.step(4)
    other.step(4)
    assert_same(weights(solver.net), weights(other.net), **CLOSE)


# ---- a solver that is only stepped


def test_solver_without_max_iter_is_stepped(tmp_path: Path) -> None:
    write_rows(tmp_path)
    write(tmp_path, ROWS_NET)
    text = 'train_net: "net.prototxt" base_lr: 0.1 lr_policy: "step" gamma: 0.1 stepsize: 5 '
    file = write(tmp_path, f'{text} snapshot: 0 snapshot_prefix: "rows"', "solver.prototxt")
    for solver in (caffe.SGDSolver(file), caffe.get_solver(file)):
        before = weights(solver.net)
        solver.step(3)
        assert (solver.iter, solver.param.max_iter) == (3, 0)
        assert not np.array_equal(before["ip1"][0], weights(solver.net)["ip1"][0])
        with pytest.raises(SolverError, match=r"solver\.prototxt: max_iter is not given"):
            solver.solve()
        solver.param.max_iter = 5
        solver.solve()
        assert solver.iter == 5
