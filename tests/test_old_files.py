"""Nets, solvers and weights of former years: built, trained, and run to Caffe's numbers."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_kd.cli.train import main as train
from caffe_kd.net import Net, load_net
from caffe_kd.proto.binary import read_weights
from caffe_kd.proto.upgrade import Notes

GOLDEN = Path(__file__).parent / "golden" / "solvers"
SHARED = Path(__file__).parents[2] / "shared"
MODELS = SHARED / "models"
MNIST = SHARED / "data" / "mnist"

# The recordings' own bounds: float32 sums, added in another order; those of training grow.
RTOL, TRAINED_RTOL = 1e-4, 5e-4
ATOL = 2e-5

# golden/solvers/net.prototxt as one wrote it in 2014.
NET_OF_2014 = """
name: "tiny"
layers { name: "data" type: HDF5_DATA top: "data" top: "label"
  hdf5_data_param { source: "train.txt" batch_size: 8 } }
layers { name: "conv1" type: CONVOLUTION bottom: "data" top: "conv1"
  blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layers { name: "relu1" type: RELU bottom: "conv1" top: "conv1" }
layers { name: "pool1" type: POOLING bottom: "conv1" top: "pool1"
  pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layers { name: "ip1" type: INNER_PRODUCT bottom: "pool1" top: "ip1" param: "w" param: ""
  blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0.5
  inner_product_param { num_output: 64 weight_filler { type: "xavier" } } }
layers { name: "tanh1" type: TANH bottom: "ip1" top: "ip1" }
layers { name: "ip2" type: INNER_PRODUCT bottom: "ip1" top: "ip2" param: "w" param: ""
  blobs_lr: 1 blobs_lr: 0
  inner_product_param { num_output: 64 weight_filler { type: "xavier" } } }
layers { name: "ip3" type: INNER_PRODUCT bottom: "ip2" top: "ip3"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layers { name: "loss" type: SOFTMAX_LOSS bottom: "ip3" bottom: "label" top: "loss" }
"""


def assert_close(got: np.ndarray, want: np.ndarray, rtol: float) -> None:
    greatest = float(np.abs(want).max())
    assert float(np.abs(got - want).max()) <= ATOL * max(1.0, greatest) + rtol * greatest


def test_solver_and_net_of_2014_train_to_the_recorded_parameters(tmp_path, monkeypatch, capsys):
    for name in ("train.h5", "train.txt", "init.caffemodel"):
        shutil.copy(GOLDEN / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(NET_OF_2014)
    solver = (GOLDEN / "nesterov.solver.prototxt").read_text()
    assert 'type: "Nesterov"' in solver
    Path("solver.prototxt").write_text(solver.replace('type: "Nesterov"', "solver_type: NESTEROV"))

    flags = ["-solver=solver.prototxt", "-weights=init.caffemodel", "-max_iter=12"]
    assert train(flags) == 0

    log = capsys.readouterr().err
    assert "using deprecated V1LayerParameter: net.prototxt" in log
    assert "using deprecated 'solver_type' field (enum): solver.prototxt" in log
    recorded = np.load(GOLDEN / "nesterov.npz")
    trained = {w.name: w.blobs for w in read_weights("nesterov_iter_12.caffemodel")}
    keys = [key for key in recorded.files if key.startswith("param/")]
    assert len(keys) == 8
    for key in keys:
        _, layer, index = key.split("/")
        assert_close(trained[layer][int(index)], recorded[key][11], TRAINED_RTOL)


# Real weights of 2014 to 2020


def model(folder: str, prototxt: str, weights: str) -> tuple[Net, np.lib.npyio.NpzFile, Notes]:
    path = MODELS / folder
    if not path.is_dir():
        pytest.skip(f"../shared/models/{folder} is absent")
    notes = Notes()
    net = load_net(path / prototxt, notes=notes)
    net.load_weights(path / f"{weights}.caffemodel")
    return net, np.load(path / f"{weights}.npz"), notes


@pytest.mark.parametrize(
    ("folder", "prototxt", "weights", "step"),
    [
        ("cifar10-v1-everpeace-2014", "cifar10_full", "cifar10_full_iter_70000", "V1Layer"),
        ("cifar10-v1-everpeace-2014", "cifar10_quick", "cifar10_quick_iter_5000", "V1Layer"),
        ("mtcnn-kpzhang93-2016", "det1", "det1", "input fields"),
        ("mtcnn-kpzhang93-2016", "det2", "det2", "input fields"),
        ("mtcnn-kpzhang93-2016", "det3", "det3", "input fields"),
        ("tiny-htshinichi-2020", "test", "test", "input fields"),
    ],
)
def test_old_net_has_caffes_outputs(folder, prototxt, weights, step):
    net, recorded, notes = model(folder, f"{prototxt}.prototxt", weights)
    assert any(f"using deprecated {step}" in line for line in notes.lines)
    assert notes.problems == []
    with torch.no_grad():
        net({k[3:]: torch.from_numpy(recorded[k]) for k in recorded.files if k[:3] == "in/"})
    outputs = [key[4:] for key in recorded.files if key.startswith("out/")]
    assert outputs
    for name in outputs:
        assert_close(net.blobs[name].numpy(), recorded[f"out/{name}"], RTOL)


@pytest.mark.parametrize(
    ("folder", "weights", "is_old"),
    [
        ("lenet-v1-everpeace-2014", "lenet_iter_10000", True),
        ("lenet-v1-everpeace-2014", "lenet_iter_5000", True),
        ("lenet-ethereon", "lenet_iter_10000", False),
    ],
)
def test_lenet_of_2014_scores_on_mnist_as_recorded(folder, weights, is_old):
    net, recorded, notes = model(folder, "lenet.prototxt", weights)
    if not MNIST.is_dir():
        pytest.skip("../shared/data/mnist is absent")
    assert any("V1LayerParameter" in line for line in notes.lines) == is_old
    with gzip.open(MNIST / "t10k-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    with gzip.open(MNIST / "t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    right = 0
    with torch.no_grad():
        for start in range(0, len(images), 100):
            batch = slice(start, start + 100)
            pixels = torch.from_numpy(images[batch] * np.float32(1 / 256))
            net({net.inputs[0]: pixels})
            logits = net.blobs["ip2"].numpy()
            right += int((logits.argmax(1) == labels[batch]).sum())
            if start == 0:
                assert_close(logits, recorded["logits"], RTOL)
    assert right / len(images) == float(recorded["accuracy"])
