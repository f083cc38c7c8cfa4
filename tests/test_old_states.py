"""Solver states and weights of 2014 to 2017: training goes on from them, nets take them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_kd.cli.train import main as train
from caffe_kd.data.backends.lmdb import write_lmdb
from caffe_kd.net import Net, load_net, read_net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto.binary import read_solver_state, read_weights
from caffe_kd.proto.filter import filter_net

MODELS = Path(__file__).parents[2] / "shared" / "models"
LENET = MODELS / "lenet-v1-everpeace-2014"

pytestmark = pytest.mark.skipif(not LENET.is_dir(), reason="../shared/models is absent")

RTOL = 1e-4  # one update in float32: sums in another order
ROUNDING = 1e-7  # of weights below 1


def write_records(folder: Path) -> None:
    rng = np.random.default_rng(0)
    records = []
    for index in range(64):
        image = rng.integers(0, 256, (1, 28, 28), dtype=np.uint8)
        datum = pb.Datum(channels=1, height=28, width=28, data=image.tobytes(), label=index % 10)
        records.append((f"{index:08d}".encode(), datum.SerializeToString()))
    write_lmdb(folder, records)


def test_solver_state_of_2014_goes_on_with_its_momentum(tmp_path, monkeypatch):
    """One update from iteration 10000, against the rule written out."""
    monkeypatch.chdir(tmp_path)
    examples = Path("examples/mnist")
    examples.mkdir(parents=True)
    for name in (
        "lenet_iter_10000.caffemodel",
        "lenet_iter_10000.solverstate",
        "lenet_solver.prototxt",
        "lenet_train_test.prototxt",
    ):
        shutil.copy(LENET / name, examples)
    for name in ("mnist_train_lmdb", "mnist_test_lmdb"):
        write_records(examples / name)
    state = read_solver_state(examples / "lenet_iter_10000.solverstate")
    assert (state.iter, state.learned_net) == (10000, "examples/mnist/lenet_iter_10000.caffemodel")

    net = load_net(examples / "lenet_train_test.prototxt", pb.TRAIN)
    net.load_weights(examples / "lenet_iter_10000.caffemodel")
    net().backward()
    rate = 0.01 * (1 + 0.0001 * 10000) ** -0.75
    expected = []
    with torch.no_grad():
        for param, old in zip(net.params, state.history, strict=True):
            weight = param.blob.numpy()
            gradient = param.blob.grad.numpy() + 0.0005 * param.decay_mult * weight
            step = 0.9 * old.reshape(weight.shape) + rate * param.lr_mult * gradient
            expected.append((step, weight - step))

    flags = ["-solver", str(examples / "lenet_solver.prototxt"), "-max_iter=10001"]
    assert train([*flags, "-snapshot", str(examples / "lenet_iter_10000.solverstate")]) == 0

    after = read_solver_state(examples / "lenet_iter_10001.solverstate")
    weights = [
        blob
        for layer in read_weights(examples / "lenet_iter_10001.caffemodel")
        for blob in layer.blobs
    ]
    assert after.iter == 10001
    for (step, weight), got_step, got in zip(expected, after.history, weights, strict=True):
        assert np.abs(got_step - step).max() <= RTOL * np.abs(step).max()
        assert np.abs(got - weight).max() <= RTOL * np.abs(step).max() + ROUNDING
    assert any(float(np.abs(old).max()) > 0 for old in state.history)


@pytest.mark.parametrize("name", ["cifar10_full_iter_70000", "cifar10_quick_iter_5000"])
def test_solver_state_of_2014_has_the_history_of_its_net(name):
    folder = MODELS / "cifar10-v1-everpeace-2014"
    state = read_solver_state(folder / f"{name}.solverstate")
    net = load_net(folder / f"{name.split('_iter')[0]}.prototxt")
    shapes = [tuple(p.blob.shape) for p in net.params]
    assert [h.size for h in state.history] == [int(np.prod(s)) for s in shapes]


def test_weights_of_resnet20_fit_its_training_net():
    folder = MODELS / "resnet20-nhzlx-2017"
    param = filter_net(
        read_net(folder / "res20_cifar_train_test.prototxt"), pb.NetState(phase=pb.TEST)
    )
    (data,) = [layer for layer in param.layer if layer.type == "Data"]
    data.type = "Input"
    data.input_param.shape.add(dim=(2, 3, 32, 32))
    data.input_param.shape.add(dim=(2,))
    net = Net(param)
    ignored = net.load_weights(folder / "ResNet_20.caffemodel").ignored
    stored = {w.name: w.blobs for w in read_weights(folder / "ResNet_20.caffemodel") if w.blobs}
    assert not stored.keys() & set(ignored)
    for param in net.params:
        assert np.array_equal(
            param.blob.detach().numpy().ravel(), stored[param.layer.name][param.index].ravel()
        )
    with torch.no_grad():
        net({"Data1": torch.zeros(2, 3, 32, 32), "Data2": torch.zeros(2)})
    assert all(bool(torch.isfinite(net.blobs[name]).all()) for name in net.outputs)
