from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from caffe_kd.core.errors import CaffeKDError, ParseError, SolverError, WeightsError
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto.binary import read_solver_state, read_weights
from caffe_kd.proto.hdf5 import read_weights as read_groups
from tests.solver.training import (
    DISTIL,
    DISTILLER,
    GOLDEN,
    GOLDEN_CASES,
    SETTINGS,
    STUDENT,
    assert_recorded,
    assert_same_weights,
    golden_solver,
    lines_of,
    make_solver,
    weights_of,
)


def recorded_ending(name: str) -> str:
    return ".h5" if (GOLDEN / f"{name}_iter_6.solverstate.h5").exists() else ""


# ---- the files, held against Caffe's


@pytest.mark.parametrize("name", GOLDEN_CASES)
def test_snapshot_files_equal_the_originals(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    solver = golden_solver(name, tmp_path)
    ending = recorded_ending(name)
    model, state = f"{name}_iter_6.caffemodel{ending}", f"{name}_iter_6.solverstate{ending}"
    solver.step(6)
    assert solver.snapshots == (Path(model), Path(state))
    ours, theirs = read_solver_state(state), read_solver_state(GOLDEN / state)
    assert (ours.iter, ours.learned_net) == (theirs.iter, theirs.learned_net)
    assert ours.current_step == theirs.current_step
    assert [h.shape for h in ours.history] == [h.shape for h in theirs.history]
    for index, (got, want) in enumerate(zip(ours.history, theirs.history, strict=True)):
        assert_recorded(got, want, f"history {index}")
    for got, want in zip(read_weights(model), read_weights(GOLDEN / model), strict=True):
        assert (got.name, got.type, got.legacy) == (want.name, want.type, want.legacy)
        assert len(got.blobs) == len(want.blobs)
        for index, (blob, recorded) in enumerate(zip(got.blobs, want.blobs, strict=True)):
            assert (blob is None) == (recorded is None)
            if blob is not None:
                assert_recorded(blob, recorded, f"{got.name} {index}")


def test_recorded_history_is_not_all_zero():
    """The comparison above would mean nothing if it were."""
    for name in GOLDEN_CASES:
        state = read_solver_state(GOLDEN / f"{name}_iter_6.solverstate{recorded_ending(name)}")
        assert max(np.abs(h).max() for h in state.history) > 0.001, name


def test_weights_file_holds_name_and_layers_alone(folder):
    solver = make_solver()
    solver.solve()
    net = pb.NetParameter()
    net.ParseFromString(Path("solver_iter_6.caffemodel").read_bytes())
    assert [field.name for field, _ in net.ListFields()] == ["name", "layer"]
    assert [layer.name for layer in net.layer] == ["data", "ip", "loss"]
    assert not any(layer.source_line for layer in net.layer)
    assert net.layer[1].inner_product_param.num_output == 3


def test_gradients_are_written_where_asked_for(folder):
    solver = make_solver(SETTINGS + "snapshot_diff: true")
    solver.solve()
    net = pb.NetParameter()
    net.ParseFromString(Path("solver_iter_6.caffemodel").read_bytes())
    blobs = net.layer[1].blobs
    grads = [p.blob.grad.flatten() for p in solver.net.params]
    assert [np.allclose(b.diff, g) for b, g in zip(blobs, grads, strict=True)] == [True, True]


@pytest.mark.parametrize("hdf5", [False, True])
def test_snapshots_never_contain_the_teacher(folder, hdf5):
    solver = make_solver(DISTIL + ("snapshot_format: HDF5" if hdf5 else ""))
    solver.solve()
    model, state = solver.snapshots
    names = [w.name for w in read_weights(model)]
    assert sorted(names) == ["data", "ip", "kd", "loss"]
    assert [h.shape for h in read_solver_state(state).history] == [(3, 4), (3,)]
    assert b"teacher/ip1" not in model.read_bytes()


def test_parameters_of_the_distiller_are_in_the_snapshot(folder):
    Path("distiller.prototxt").write_text(
        'layer { name: "hint" type: "InnerProduct" bottom: "ip" top: "hint" '
        "include { phase: TRAIN } inner_product_param { num_output: 3 } }"
        + DISTILLER.replace('"ip"', '"hint"')
    )
    solver = make_solver(DISTIL)
    solver.solve()
    weights = {w.name: [b.shape for b in w.blobs] for w in read_weights(solver.snapshots[0])}
    assert weights["hint"] == [(3, 3), (3,)]
    assert len(read_solver_state(solver.snapshots[1]).history) == 4


def test_shared_blob_is_in_an_hdf5_file_once(folder):
    shared = 'param { name: "w" } param { name: "b" }'
    Path("net.prototxt").write_text(
        STUDENT.replace("param { lr_mult: 1 } param { lr_mult: 2 }", shared)
        + f"""
layer {{ name: "ip2" type: "InnerProduct" bottom: "data" top: "ip2" {shared}
  inner_product_param {{ num_output: 3 }} }}
layer {{ name: "loss2" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss2" }}"""
    )
    solver = make_solver(SETTINGS + "snapshot_format: HDF5")
    solver.solve()
    groups = dict(read_groups(solver.snapshots[0]))
    assert [b.shape for b in groups["ip"]] == [(3, 4), (3,)]
    assert not any(b is not None for b in groups["ip2"])
    again = make_solver(SETTINGS + "snapshot_format: HDF5")
    again.restore(solver.snapshots[1])
    assert_same_weights(weights_of(again), weights_of(solver))


# ---- reading


@pytest.mark.parametrize("hdf5", [False, True])
@pytest.mark.parametrize("rule", ['type: "SGD" momentum: 0.9', 'type: "Adam" momentum: 0.9'])
def test_own_snapshot_is_read_back_to_the_bit(folder, hdf5, rule):
    settings = f"{SETTINGS} {rule} " + ("snapshot_format: HDF5" if hdf5 else "")
    solver = make_solver(settings)
    solver.solve()
    again = make_solver(settings)
    again.restore(solver.snapshots[1])
    assert again.iter == 6
    assert_same_weights(weights_of(again), weights_of(solver))
    # SGD keeps its history divided by the rate: the last bit may round differently.
    for got, want in zip(again.updater.history(), solver.updater.history(), strict=True):
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=3e-7)


def test_weights_are_found_beside_a_state_that_was_moved(folder, monkeypatch):
    solver = make_solver(SETTINGS + 'snapshot_prefix: "output/tiny"')
    solver.solve()
    assert read_solver_state("output/tiny_iter_6.solverstate").learned_net == (
        "output/tiny_iter_6.caffemodel"
    )
    shutil.move("output", "kept")
    again = make_solver()
    again.restore("kept/tiny_iter_6.solverstate")
    assert_same_weights(weights_of(again), weights_of(solver))


def test_state_without_its_weights_names_the_missing_file(folder):
    solver = make_solver()
    solver.solve()
    os.remove(solver.snapshots[0])
    with pytest.raises(ParseError, match=r"^solver_iter_6\.caffemodel: no such file"):
        make_solver().restore(solver.snapshots[1])


def test_state_of_another_rule_is_refused(folder):
    solver = make_solver(SETTINGS)
    solver.solve()
    with pytest.raises(SolverError) as error:
        make_solver(SETTINGS + 'type: "Adam"').restore(solver.snapshots[1])
    want = (
        "solver_iter_6.solverstate: Incorrect length of history blobs: 2 in the file, 4 wanted by "
        "solver type Adam. The snapshot belongs to another net or solver type"
    )
    assert str(error.value) == want


def test_state_of_another_net_is_refused(folder):
    solver = make_solver()
    solver.solve()
    Path("net.prototxt").write_text(STUDENT.replace("num_output: 3", "num_output: 4"))
    with pytest.raises(SolverError) as error:
        make_solver().restore(solver.snapshots[1])
    assert "history blob 0 has shape (3, 4), the net's parameter (4, 4)" in str(error.value)


def test_weights_of_another_net_are_refused(folder):
    solver = make_solver()
    solver.solve()
    Path("net.prototxt").write_text(STUDENT.replace("num_output: 3", "num_output: 4"))
    with pytest.raises(WeightsError, match="Cannot copy param 0 weights: shape mismatch"):
        make_solver(weights=[str(solver.snapshots[0])])


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.98])
@pytest.mark.parametrize("hdf5", [False, True])
def test_truncated_snapshot_is_refused(folder, which, share, hdf5):
    settings = SETTINGS + ("snapshot_format: HDF5" if hdf5 else "")
    solver = make_solver(settings)
    solver.solve()
    path = solver.snapshots[which]
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CaffeKDError) as error:
        make_solver(settings).restore(solver.snapshots[1])
    assert str(error.value).startswith(str(path))


def test_snapshot_that_cannot_be_written_leaves_the_one_before(folder):
    solver = make_solver(SETTINGS + "snapshot_after_train: false snapshot: 6")
    solver.solve()
    before = Path("solver_iter_6.caffemodel").read_bytes()
    solver.param.snapshot_prefix = "net.prototxt/tiny"  # a file stands where a folder must be
    with pytest.raises(CaffeKDError, match="cannot be written"):
        solver.snapshot()
    assert Path("solver_iter_6.caffemodel").read_bytes() == before
    assert solver.snapshots == (
        Path("solver_iter_6.caffemodel"),
        Path("solver_iter_6.solverstate"),
    )
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


def test_restoring_says_so_in_the_originals_words(folder):
    solver = make_solver()
    solver.solve()
    again = make_solver(SETTINGS)
    again.restore(solver.snapshots[1])
    lines = lines_of(again)
    first = lines.index("Resuming from solver_iter_6.solverstate")
    assert lines[first + 1] == "SGDSolver: restoring history"
