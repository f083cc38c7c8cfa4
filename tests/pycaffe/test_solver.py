from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import caffe_kd as caffe
from caffe_kd.core.errors import NonFiniteLoss, ParseError, SolverError
from tests.pycaffe.nets import BRANCHES, SMALL, SOLVER, fill, write
from tests.solver.training import DATA, write_rows

# The loop runs one graph, pycaffe's net layer by layer: float32 sums may be added in another order.
CLOSE = {"rtol": 1e-4, "atol": 1e-6}

# A blob that two layers take, a layer in place, and rows in their order.
ROWS_NET = (
    'name: "rows"'
    + DATA
    + """
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
  inner_product_param { num_output: 6 weight_filler { type: "xavier" } } }
layer { name: "tanh" type: "TanH" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "ip3" type: "InnerProduct" bottom: "ip1" top: "ip3"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "sum" type: "Eltwise" bottom: "ip2" bottom: "ip3" top: "sum" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "sum" bottom: "label" top: "loss" }
"""
)
ROWS_SOLVER = 'base_lr: 0.1 lr_policy: "fixed" max_iter: 100 snapshot_prefix: "rows" '


@pytest.fixture(autouse=True)
def _quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLOG_minloglevel", "3")


@pytest.fixture
def small_solver(tmp_path: Path):
    write(tmp_path, SMALL)
    solver = caffe.SGDSolver(
        write(tmp_path, f'net: "net.prototxt" random_seed: 1 {SOLVER}', "solver.prototxt")
    )
    for net in (solver.net, *solver.test_nets):
        net.blobs["label"].data[...] = np.arange(5).reshape(5, 1, 1, 1)
    return solver


def rows_solver(folder: Path, more: str = "momentum: 0.9 weight_decay: 0.01", seed: int = 5):
    write_rows(folder)
    write(folder, ROWS_NET)
    text = f'net: "net.prototxt" {ROWS_SOLVER} random_seed: {seed} {more}'
    return caffe.get_solver(write(folder, text, "solver.prototxt"))


def branches_solver(folder: Path, more: str = ""):
    write(folder, BRANCHES)
    text = f'net: "net.prototxt" {ROWS_SOLVER} random_seed: 5 {more}'.replace("0.1", "0.001")
    solver = caffe.get_solver(write(folder, text, "solver.prototxt"))
    fill(solver.net)
    return solver


def weights(net) -> dict[str, list[np.ndarray]]:
    return {name: [b.data.copy() for b in blobs] for name, blobs in net.params.items()}


def assert_same(one: dict, two: dict, **close) -> None:
    assert one.keys() == two.keys()
    for name, arrays in one.items():
        for a, b in zip(arrays, two[name], strict=True):
            np.testing.assert_allclose(a, b, err_msg=name, **(close or {"rtol": 0}))


# ---- as in Caffe's own tests


def test_solve_trains_to_max_iter(small_solver) -> None:
    assert small_solver.iter == 0
    small_solver.param.max_iter = 20
    before = weights(small_solver.net)
    small_solver.solve()
    assert small_solver.iter == 20
    for name, arrays in weights(small_solver.net).items():
        assert not np.array_equal(arrays[0], before[name][0])
        assert np.isfinite(arrays[0]).all()


def test_apply_update_subtracts_the_rate_times_the_diff(small_solver) -> None:
    data = small_solver.net.layers[1].blobs[0].data
    data[...] = 0
    small_solver.net.layers[1].blobs[0].diff[...] = 1
    small_solver.apply_update()
    np.testing.assert_allclose(data, -0.01, rtol=1e-6)
    np.testing.assert_allclose(small_solver.net.layers[1].blobs[0].diff, 0.01, rtol=1e-6)
    assert small_solver.iter == 1


def test_nets_live_longer_than_their_solver(small_solver) -> None:
    nets = [small_solver.net, *small_solver.test_nets]
    assert len(nets) == 2
    del small_solver
    gc.collect()
    for net in nets:
        for blobs in net.params.values():
            assert all(np.isfinite(b.data.sum() + b.diff.sum()) for b in blobs)
        assert set(net.forward()) == {"loss"}


def test_snapshot_writes_weights_and_state(small_solver, tmp_path: Path) -> None:
    small_solver.net.params["conv"][0].data[...] = 7
    small_solver.snapshot()
    assert (tmp_path / "model_iter_0.solverstate").exists()
    net = caffe.Net("net.prototxt", caffe.TEST, weights="model_iter_0.caffemodel")
    assert (net.params["conv"][0].data == 7).all()


# ---- the loop and its wrappers


def test_step_shows_the_last_iteration(tmp_path: Path) -> None:
    solver, other = rows_solver(tmp_path), rows_solver(tmp_path)
    solver.step(3)
    other.step(2)
    before = weights(other.net)
    loss = float(other.net.forward()["loss"])
    other.net.backward()
    assert float(solver.net.blobs["loss"].data) == pytest.approx(loss, rel=1e-6)
    for name, blob in other.net.blobs.items():
        np.testing.assert_allclose(solver.net.blobs[name].data, blob.data, err_msg=name, **CLOSE)
        np.testing.assert_allclose(solver.net.blobs[name].diff, blob.diff, err_msg=name, **CLOSE)
    for name, blobs in solver.net.params.items():
        for index, blob in enumerate(blobs):
            want = before[name][index] - blob.data
            np.testing.assert_allclose(blob.diff, want, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("looked_at", [False, True])
def test_step_shows_every_diff_of_a_net_of_branches(tmp_path: Path, looked_at: bool) -> None:
    solver, other = branches_solver(tmp_path), branches_solver(tmp_path)
    held = []
    for blob in solver.net.blobs.values() if looked_at else ():
        held += [blob.data, blob.diff]
    for _ in range(2):
        solver.step(1)
        other.net.clear_param_diffs()
        other.net.forward()
        other.net.backward()
        other.apply_update()
        for name, blob in other.net.blobs.items():
            mine = solver.net.blobs[name]
            np.testing.assert_allclose(mine.data, blob.data, err_msg=name, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(mine.diff, blob.diff, err_msg=name, rtol=1e-4, atol=1e-5)
        assert_same(weights(solver.net), weights(other.net), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rule", ["SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"])
def test_passes_and_apply_update_train_as_step_does(tmp_path: Path, rule: str) -> None:
    momentum = "" if rule in ("AdaGrad", "RMSProp") else "momentum: 0.9"
    more = f'type: "{rule}" {momentum} weight_decay: 0.01 delta: 1e-4'
    solver, other = rows_solver(tmp_path, more), rows_solver(tmp_path, more)
    assert type(solver).__name__ == f"{rule}Solver"
    for _ in range(4):
        before = weights(solver.net)
        solver.step(1)
        other.net.forward()
        other.net.backward()
        other.apply_update()
        other.net.clear_param_diffs()
        assert_same(weights(solver.net), weights(other.net), **CLOSE)
        for name, blobs in solver.net.params.items():
            for old, blob in zip(before[name], blobs, strict=True):
                np.testing.assert_allclose(blob.diff, old - blob.data, rtol=1e-3, atol=1e-6)
    assert solver.iter == other.iter == 4


def test_data_moves_on_with_both_steps_and_passes(tmp_path: Path) -> None:
    solver, other = rows_solver(tmp_path), rows_solver(tmp_path)
    seen = []
    for _ in range(3):
        solver.step(1)
        seen.append(solver.net.blobs["data"].data.copy())
    for want in (seen[0], seen[1]):
        other.net.forward()
        np.testing.assert_array_equal(other.net.blobs["data"].data, want)
    other.step(1)
    np.testing.assert_array_equal(other.net.blobs["data"].data, seen[2])
    assert not np.array_equal(seen[0], seen[1])


def test_step_trains_on_edited_weights_and_inputs(tmp_path: Path) -> None:
    solver, other = branches_solver(tmp_path), branches_solver(tmp_path)
    held = solver.net.params["conv1"][0].data  # of a layout the loop does not use
    for net in (solver.net, other.net):
        net.params["conv1"][0].data[...] *= 2
        net.blobs["x"].data[...] *= 3
    solver.step(1)
    other.net.forward()
    other.net.backward()
    other.apply_update()
    assert_same(weights(solver.net), weights(other.net), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(held, solver.net.params["conv1"][0].data)
    held[...] = 0
    solver.step(1)
    assert 0 < np.abs(held).max() < 1


def test_step_trains_on_edited_constant_data(small_solver) -> None:
    before = float(small_solver.net.forward()["loss"])
    small_solver.net.blobs["label"].data[...] = 12
    small_solver.param.base_lr = 0.0
    small_solver.step(1)
    assert (small_solver.net.blobs["label"].data == 12).all()
    assert float(small_solver.net.blobs["loss"].data) != pytest.approx(before)
    small_solver.net.blobs["label"].data[...] = 3
    small_solver.step(2)
    assert (small_solver.net.blobs["label"].data == 3).all()


def test_input_reshaped_between_steps_takes_effect(tmp_path: Path) -> None:
    solver = branches_solver(tmp_path)
    solver.step(1)
    for name in ("x", "t"):
        solver.net.blobs[name].reshape(2, *solver.net.blobs[name].shape[1:])
        solver.net.blobs[name].data[...] = 1
    solver.step(1)
    assert solver.net.blobs["flat"].data.shape == (2, 54)
    assert solver.net.blobs["conv1"].diff.shape == (2, 6, 6, 6)


def test_backward_after_an_update_uses_the_new_weights(tmp_path: Path) -> None:
    solver = rows_solver(tmp_path, "")
    solver.net.forward()
    solver.net.backward()
    solver.apply_update()
    solver.net.clear_param_diffs()
    solver.net.backward(start="sum", end="ip3")
    want = solver.net.blobs["ip3"].diff @ solver.net.params["ip3"][0].data
    (bottom,) = solver.net.bottom_names["ip3"]
    np.testing.assert_allclose(solver.net.blobs[bottom].diff, want, rtol=1e-5, atol=1e-6)


def test_callbacks_see_and_change_the_gradients(tmp_path: Path) -> None:
    solver, other = rows_solver(tmp_path, "iter_size: 2"), rows_solver(tmp_path, "iter_size: 2")
    calls = []

    def ready() -> None:
        calls.append(("ready", solver.iter))
        assert solver.net.blobs["ip1"].diff.any()
        for blobs in solver.net.params.values():
            for blob in blobs:
                blob.diff[...] *= 0.5

    solver.add_callback(lambda: calls.append(("start", solver.iter)), ready)
    solver.step(3)
    other.param.base_lr *= 0.5
    other.step(3)
    assert calls == [(kind, i) for i in range(3) for kind in ("start", "ready")]
    assert_same(weights(solver.net), weights(other.net), **CLOSE)


def test_callback_finds_weights_of_this_iteration_and_may_edit_them(tmp_path: Path) -> None:
    solver = branches_solver(tmp_path)
    held = solver.net.params["conv1"][0].data
    seen = []

    def start() -> None:
        seen.append(held.copy())
        held[...] = len(seen)

    solver.add_callback(start, lambda: None)
    solver.step(2)
    assert np.abs(seen[1] - 1).max() < 0.5
    assert np.abs(held - 2).max() < 0.5


def test_rate_and_parameters_can_be_read_and_set(tmp_path: Path) -> None:
    more = "weight_decay: 0 gamma: 0.5 stepsize: 2 display: 7 layer_wise_reduce: false"
    write_rows(tmp_path)
    write(tmp_path, ROWS_NET)
    text = f'net: "net.prototxt" {ROWS_SOLVER} {more}'.replace("fixed", "step")
    solver = caffe.get_solver(write(tmp_path, text, "solver.prototxt"))
    param = solver.param
    assert (param.max_iter, param.display, param.layer_wise_reduce) == (100, 7, False)
    assert solver.lr == pytest.approx(0.1)
    solver.step(2)
    assert solver.lr == pytest.approx(0.05)
    param.base_lr = 0.0
    before = weights(solver.net)
    solver.step(1)
    assert solver.lr == 0
    assert_same(before, weights(solver.net))


def test_test_net_shares_weights_and_shows_the_last_test(tmp_path: Path) -> None:
    solver = rows_solver(tmp_path, "test_iter: 2 test_interval: 2")
    (test_net,) = solver.test_nets
    held = solver.net.params["ip1"][0].data
    solver.step(1)  # the test before the first iteration
    np.testing.assert_array_equal(test_net.params["ip1"][0].data, held)
    tested = float(test_net.blobs["loss"].data)
    assert tested > 0
    solver.step(2)
    assert float(test_net.blobs["loss"].data) != tested
    test_net.params["ip1"][0].data[...] = 0
    assert not held.any()
    diff = solver.net.params["ip1"][0].diff.copy()
    test_net.forward()
    test_net.backward()
    np.testing.assert_array_equal(solver.net.params["ip1"][0].diff, diff)


def test_share_weights_gives_a_net_those_that_are_trained(tmp_path: Path) -> None:
    solver = branches_solver(tmp_path)
    net = caffe.Net("net.prototxt", caffe.TEST)
    solver.share_weights(net)
    held = net.params["conv1"][0].data
    before = held.copy()
    solver.step(1)
    assert not np.array_equal(held, before)
    np.testing.assert_array_equal(held, solver.net.params["conv1"][0].data)


def test_restore_goes_on_where_the_snapshot_was_taken(tmp_path: Path) -> None:
    solver = branches_solver(tmp_path, "momentum: 0.9")
    solver.step(2)
    solver.snapshot()
    solver.step(2)
    other = branches_solver(tmp_path, "momentum: 0.9")
    held = other.net.params["conv1"][0].data
    other.restore("rows_iter_2.solverstate")
    assert other.iter == 2
    other.step(2)
    assert_same(weights(solver.net), weights(other.net))
    np.testing.assert_array_equal(held, solver.net.params["conv1"][0].data)


def test_solve_goes_on_from_a_state(tmp_path: Path) -> None:
    solver = rows_solver(tmp_path)
    solver.step(2)
    solver.snapshot()
    other = rows_solver(tmp_path)
    other.param.max_iter = 4
    other.solve("rows_iter_2.solverstate")
    solver.step(2)
    assert_same(weights(solver.net), weights(other.net))


def test_class_decides_the_rule_over_the_file(tmp_path: Path) -> None:
    rows_solver(tmp_path, 'type: "Adam"')
    assert type(caffe.get_solver("solver.prototxt")) is caffe.AdamSolver
    solver = caffe.SGDSolver("solver.prototxt")
    before = weights(solver.net)
    solver.net.forward()
    solver.net.backward()
    grads = {n: [b.diff.copy() for b in blobs] for n, blobs in solver.net.params.items()}
    solver.apply_update()
    want = {n: [w - 0.1 * g for w, g in zip(before[n], grads[n], strict=True)] for n in before}
    assert_same(weights(solver.net), want, **CLOSE)


def test_seed_of_the_script_holds_where_the_file_gives_none(tmp_path: Path) -> None:
    runs = []
    for _ in range(2):
        caffe.set_random_seed(3)
        runs.append(weights(rows_solver(tmp_path, seed=-1).net))
    assert_same(*runs)
    assert_same(
        weights(rows_solver(tmp_path, seed=8).net), weights(rows_solver(tmp_path, seed=8).net)
    )


def test_unknown_type_and_missing_file_are_named(tmp_path: Path) -> None:
    rows_solver(tmp_path)
    write(tmp_path, f'net: "net.prototxt" {ROWS_SOLVER} type: "Adm"', "solver.prototxt")
    with pytest.raises(SolverError, match="Unknown solver type: 'Adm'.*Did you mean 'Adam'"):
        caffe.get_solver("solver.prototxt")
    with pytest.raises(ParseError, match=r"nowhere\.prototxt"):
        caffe.get_solver("nowhere.prototxt")


def test_blobs_show_the_iteration_that_failed(tmp_path: Path) -> None:
    solver = rows_solver(tmp_path)
    solver.net.params["ip3"][0].data[...] = np.nan
    with pytest.raises(NonFiniteLoss):
        solver.step(1)
    assert np.isnan(solver.net.blobs["loss"].data)
    assert not np.isnan(solver.net.blobs["ip2"].data).any()


def test_log_lines_come_from_the_level_asked_for(
    tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caffe.pycaffe.glog.LOG, "_stream", None)
    rows_solver(tmp_path)
    lines: list[str] = []
    monkeypatch.setattr(caffe.pycaffe.glog.LOG, "_write_stream", lines.append)
    rows_solver(tmp_path)
    assert lines == []  # GLOG_minloglevel=3
    monkeypatch.delenv("GLOG_minloglevel")
    rows_solver(tmp_path)
    assert any("Creating training net" in line for line in lines)


def test_frozen_teacher_is_not_cached_so_that_its_blobs_are_there(tmp_path: Path) -> None:
    frozen = "param { lr_mult: 0 } param { lr_mult: 0 } inner_product_param { num_output: 6"
    write_rows(tmp_path)
    write(tmp_path, ROWS_NET.replace("inner_product_param { num_output: 6", frozen))
    solver = caffe.get_solver(
        write(tmp_path, f'net: "net.prototxt" {ROWS_SOLVER}', "solver.prototxt")
    )
    solver.step(5)
    got = solver.net.blobs["ip1"].data
    data = torch.from_numpy(solver.net.blobs["data"].data.copy()).flatten(1)
    weight, bias = (torch.from_numpy(b.data) for b in solver.net.params["ip1"])
    want = torch.tanh(torch.nn.functional.linear(data, weight, bias))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_exact_sums_hold_for_what_is_built_next(tmp_path: Path) -> None:
    caffe.set_exact_sums(True)
    try:
        exact = branches_solver(tmp_path)
        caffe.set_exact_sums(False)
        plain = branches_solver(tmp_path)
    finally:
        caffe.set_exact_sums(None)
    assert exact.net._graph.net.context.exact_sums is True
    assert plain.net._graph.net.context.exact_sums is False
    for solver in (exact, plain):
        solver.net.forward()
    # Whether float32 sums differ from exact ones is up to the processor; exact ones are exact.
    x, (weight, bias) = exact.net.blobs["flat"].data, exact.net.params["ip"]
    sums = x.astype(np.float64) @ weight.data.T.astype(np.float64) + bias.data.astype(np.float64)
    np.testing.assert_array_equal(exact.net.blobs["ip"].data, sums.astype(np.float32))
    np.testing.assert_allclose(plain.net.blobs["ip"].data, sums, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("kind", "exact"), [("SGD", True), ("Nesterov", True), ("Adam", False)])
def test_solvers_choose_exact_sums_by_their_type(tmp_path: Path, kind: str, exact: bool) -> None:
    solver = branches_solver(tmp_path, f'type: "{kind}"')
    assert solver.net._graph.net.context.exact_sums is exact


def test_seed_that_torch_had_from_the_start_holds_too(tmp_path: Path) -> None:
    write_rows(tmp_path)
    write(tmp_path, ROWS_NET)
    text = f'net: "net.prototxt" {ROWS_SOLVER}'
    write(tmp_path, text, "solver.prototxt")
    script = (
        "import torch; torch.manual_seed(3)\n"
        "import caffe_kd as caffe\n"
        "for _ in range(2):\n"
        "    caffe.set_random_seed(3)\n"
        "    solver = caffe.get_solver('solver.prototxt')\n"
        "    print(solver.net.params['ip1'][0].data.tolist())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    first, second = done.stdout.splitlines()
    assert first == second
