"""Replays the recordings of Caffe through the pycaffe interface, as a script would."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import caffe_kd as caffe
from tests.helpers import GOLDEN_LAYERS, assert_close
from tests.solver.training import GOLDEN, GOLDEN_CASES, assert_recorded

LAYERS = sorted(path.stem for path in GOLDEN_LAYERS.glob("*.npz"))
DATA = GOLDEN_LAYERS.parent / "data"
DATA_CASES = sorted(path.stem for path in DATA.glob("*.npz"))

# Decoders of jpeg may differ by a level or two; all other values are exact but for a mean's float.
# Each is (greatest, mean) difference.
BOUNDS = {False: (1e-3, 1e-3), True: (3.0, 0.1)}


def keys(recording, kind: str) -> list[tuple[str, str]]:
    return [(k, k.split("/", 1)[1]) for k in recording.files if k.startswith(f"{kind}/")]


def blob_of(net, name: str):
    layer, index = name.rsplit("/", 1)
    return net.params[layer][int(index)]


@pytest.mark.parametrize("name", LAYERS)
def test_layer_gives_caffes_values_and_gradients(name: str) -> None:
    path = GOLDEN_LAYERS / f"{name}.prototxt"
    recording = np.load(GOLDEN_LAYERS / f"{name}.npz")
    phase = caffe.TRAIN if "phase: TRAIN" in path.read_text() else caffe.TEST
    net = caffe.Net(str(path), phase)
    for key, blob in keys(recording, "param"):
        blob_of(net, blob).data[...] = recording[key]
    for key, blob in keys(recording, "in"):
        net.blobs[blob].data[...] = recording[key]
    net.forward()
    for key, blob in keys(recording, "out"):
        assert_close(net.blobs[blob].data, recording[key], key)
    for key, blob in keys(recording, "after"):
        assert_close(blob_of(net, blob).data, recording[key], key)
    heads = keys(recording, "topdiff")
    for blob in net.blobs.values() if heads else ():
        blob.diff[...] = 0
    for key, blob in heads:
        net.blobs[blob].diff[...] = recording[key]
    if keys(recording, "din") or keys(recording, "dparam"):
        net.backward()
    for key, blob in keys(recording, "din"):
        assert_close(net.blobs[blob].diff, recording[key], key)
    for key, blob in keys(recording, "dparam"):
        assert_close(blob_of(net, blob).diff, recording[key], key)


@pytest.fixture
def solvers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(GOLDEN, tmp_path / "solvers")
    monkeypatch.chdir(tmp_path / "solvers")
    monkeypatch.setenv("GLOG_minloglevel", "3")
    return tmp_path / "solvers"


def assert_params(solver, recording, kind: str, index: int) -> None:
    for key, blob in keys(recording, kind):
        got = blob_of(solver.net, blob).data
        assert_recorded(got, recording[key][index], f"{key} after {solver.iter}")


@pytest.mark.parametrize("name", GOLDEN_CASES)
def test_solver_follows_caffe_step_by_step(name: str, solvers: Path) -> None:
    recording = np.load(f"{name}.npz")
    solver = caffe.get_solver(f"{name}.solver.prototxt")
    solver.net.copy_from("init.caffemodel")
    for iteration in range(12):
        solver.step(1)
        loss = solver.net.blobs["loss"].data
        assert_recorded(loss, recording["loss"][iteration], f"loss in {iteration}")
        assert_params(solver, recording, "param", iteration)
    assert solver.iter == 12


@pytest.mark.parametrize("name", GOLDEN_CASES)
def test_passes_and_apply_update_follow_caffe(name: str, solvers: Path) -> None:
    recording = np.load(f"{name}.npz")
    solver = caffe.get_solver(f"{name}.solver.prototxt")
    solver.net.copy_from("init.caffemodel")
    passes = 3 if name == "sgd_iter_size" else 1
    for iteration in range(12):
        solver.net.clear_param_diffs()
        for _ in range(passes):
            loss = solver.net.forward()["loss"]
            solver.net.backward()
        assert_recorded(loss, recording["loss"][iteration], f"loss in {iteration}")
        solver.apply_update()
        assert_params(solver, recording, "param", iteration)
    assert solver.iter == 12


@pytest.mark.parametrize("name", GOLDEN_CASES)
def test_solver_resumes_from_caffes_snapshot(name: str, solvers: Path) -> None:
    recording = np.load(f"{name}.npz")
    solver = caffe.get_solver(f"{name}.solver.prototxt")
    (state,) = solvers.glob(f"{name}_iter_6.solverstate*")
    solver.restore(state.name)
    for iteration in range(6):
        solver.step(1)
        assert_params(solver, recording, "resume", iteration)
    assert solver.iter == 12


@pytest.mark.parametrize("name", DATA_CASES)
def test_data_layer_gives_caffes_batches(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DATA)
    recording = np.load(f"{name}.npz")
    net = caffe.Net(f"{name}.prototxt", caffe.TEST)
    for batch in range(3):
        net.forward()
        for top in ("data", "label"):
            got, want = net.blobs[top].data, recording[f"batch{batch}/{top}"]
            assert got.shape == want.shape, top
            off = np.abs(got.astype(np.float64) - want)
            greatest, mean = BOUNDS["image" in name and top == "data"]
            assert off.max() <= greatest, f"batch{batch}/{top}"
            assert off.mean() <= mean, f"batch{batch}/{top}"
