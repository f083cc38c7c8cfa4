"""Holds whole trainings against those Caffe recorded."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_kd.solver.options import Options
from caffe_kd.solver.plan import read_plan
from caffe_kd.solver.solver import Solver
from caffe_kd.solver.updates import Updater
from tests.helpers import hide_kernels
from tests.solver.training import (
    GOLDEN,
    GOLDEN_CASES,
    MemoryLog,
    assert_recorded,
    golden_solver,
)

LENET = Path(__file__).parents[1] / "golden" / "lenet"
MNIST = Path(__file__).parents[3] / "shared" / "data" / "mnist"

needs_mnist = pytest.mark.skipif(
    not (MNIST / "train-images-idx3-ubyte.gz").exists(),
    reason="MNIST is not in ../shared/data/mnist",
)

# In float64 no rounding of ours reaches the recording's float32.
DOUBLE_LOSS = 2e-6
LOGITS = 1e-4
# Around iteration 11 two values in a pooling window differ by 2e-7, less than float32 convolutions
# differ among each other; which one wins decides where a gradient goes, and the runs part.
FLOAT_LOSS = 1e-5
FLOAT_ITERATIONS = 10
FLOAT_ACCURACY = 1e-3
# Adam divides by tiny roots: Caffe itself, with another number of threads, differs by 5e-3.
ADAM_FIRST_LOSSES, ADAM_LOSS, ADAM_ACCURACY, ADAM_LOGITS = 1e-3, 1.5e-2, 1e-3, 3e-2


def assert_params(solver: Solver, recording, kind: str, index: int) -> None:
    for key in recording.files:
        if key.startswith(f"{kind}/"):
            _, layer, blob = key.split("/")
            got = solver.net.node_of(layer).layer.blobs[int(blob)].detach()
            assert_recorded(got, recording[key][index], f"{key} after {solver.iter}")


@pytest.mark.parametrize("kernels", ["private", "public"])
@pytest.mark.parametrize("name", GOLDEN_CASES)
def test_loss_and_parameters_follow_the_original(name, kernels, tmp_path, monkeypatch):
    if kernels == "public":
        hide_kernels(monkeypatch)
    monkeypatch.chdir(tmp_path)
    solver = golden_solver(name, tmp_path)
    recording = np.load(GOLDEN / f"{name}.npz")
    assert recording["loss"].shape == (12,)
    for iteration in range(12):
        solver.step(1)
        loss = solver.net.blobs["loss"].detach()
        assert_recorded(loss, recording["loss"][iteration], f"loss in {iteration}")
        assert_params(solver, recording, "param", iteration)
    assert solver.iter == 12


@pytest.mark.parametrize("name", GOLDEN_CASES)
def test_training_resumes_from_the_originals_snapshot(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in GOLDEN.glob(f"{name}_iter_6.*.h5"):
        shutil.copy(path, tmp_path)
    solver = golden_solver(name, tmp_path, weights=False)
    (state,) = tmp_path.glob(f"{name}_iter_6.solverstate*")
    solver.restore(state.name)
    recording = np.load(GOLDEN / f"{name}.npz")
    for iteration in range(6):
        solver.step(1)
        assert_params(solver, recording, "resume", iteration)
    assert solver.iter == 12


def lenet_solver(name: str, folder: Path, exact_sums: bool = False) -> Solver:
    """Build a recorded LeNet solver, with the IDX files in place of the databases made of them."""
    net = (LENET / "net.prototxt").read_text().replace("backend: LMDB", "backend: IDX")
    net = net.replace("mnist_train_lmdb", str(MNIST / "train-images-idx3-ubyte.gz"))
    net = net.replace("mnist_test_lmdb", str(MNIST / "t10k-images-idx3-ubyte.gz"))
    (folder / "net.prototxt").write_text(net)
    shutil.copy(LENET / f"{name}.solver.prototxt", folder)
    plan = read_plan(folder / f"{name}.solver.prototxt")
    solver = Solver(plan, MemoryLog(), options=Options(exact_sums=exact_sums))
    solver.load_weights(LENET / "init.caffemodel")
    solver.param.test_initialization = False
    return solver


def to_double(solver: Solver) -> None:
    """Let nets, data and history be float64."""
    for net in (solver.net, *solver.test_nets):
        net.double()
        data = net.node_of("mnist").layer
        data.register_forward_hook(lambda _layer, _in, tops: tuple(t.double() for t in tops))
    params = [(p.blob, p.lr_mult, p.decay_mult) for p in solver.net.params]
    solver.updater = Updater(solver.param, params)


def run_lenet(solver: Solver) -> tuple[np.ndarray, float, np.ndarray]:
    """Train 100 iterations; return losses, test accuracy and logits of the first test batch."""
    losses = []
    for _ in range(100):
        solver.step(1)
        losses.append(float(solver.net.blobs["loss"].detach()))
    (net,) = solver.test_nets
    with torch.no_grad():
        net()
        first = net.blobs["ip2"].numpy().copy()
        accuracies = [float(net.blobs["accuracy"])]
        for _ in range(99):
            net()
            accuracies.append(float(net.blobs["accuracy"]))
    return np.array(losses), float(np.mean(accuracies)), first


@needs_mnist
def test_lenet_in_double_precision_is_the_originals(tmp_path):
    solver = lenet_solver("sgd_inv", tmp_path)
    to_double(solver)
    losses, accuracy, logits = run_lenet(solver)
    recording = np.load(LENET / "sgd_inv.npz")
    assert np.abs(losses - recording["loss"]).max() <= DOUBLE_LOSS
    assert round(accuracy * 10000) == round(float(recording["test_accuracy"]) * 10000)
    assert np.abs(logits - recording["test_logits_first_batch"]).max() <= LOGITS


@needs_mnist
def test_lenet_with_exact_sums_is_the_originals(tmp_path):
    losses, accuracy, logits = run_lenet(lenet_solver("sgd_inv", tmp_path, exact_sums=True))
    recording = np.load(LENET / "sgd_inv.npz")
    assert np.abs(losses - recording["loss"]).max() <= DOUBLE_LOSS
    assert round(accuracy * 10000) == round(float(recording["test_accuracy"]) * 10000)
    assert np.abs(logits - recording["test_logits_first_batch"]).max() <= LOGITS


@needs_mnist
def test_lenet_in_float_is_the_originals_up_to_a_near_tie(tmp_path):
    losses, accuracy, _ = run_lenet(lenet_solver("sgd_inv", tmp_path))
    recording = np.load(LENET / "sgd_inv.npz")
    first = slice(FLOAT_ITERATIONS)
    assert np.abs(losses[first] - recording["loss"][first]).max() <= FLOAT_LOSS
    assert abs(accuracy - recording["test_accuracy"]) <= FLOAT_ACCURACY


@needs_mnist
def test_lenet_with_adam_stays_at_the_original(tmp_path):
    losses, accuracy, logits = run_lenet(lenet_solver("adam", tmp_path))
    recording = np.load(LENET / "adam.npz")
    for iteration, (got, want) in enumerate(zip(losses, recording["loss"], strict=True)):
        bound = ADAM_FIRST_LOSSES if iteration < 20 else ADAM_LOSS
        assert abs(got - want) <= bound * max(1.0, abs(want)), iteration
    assert abs(accuracy - recording["test_accuracy"]) <= ADAM_ACCURACY
    want = recording["test_logits_first_batch"]
    assert np.abs(logits - want).max() <= ADAM_LOGITS * max(1.0, np.abs(want).max())
