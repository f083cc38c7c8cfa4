"""The net and the data that the examples here share: scikit-learn's digits of 8 x 8 pixels."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import caffe_kd as caffe
from caffe_kd import layers as L
from caffe_kd import params as P

BATCH = 50


def folder_asked_for(about: str) -> Path:
    """Return the folder that an example's command line names."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", metavar="FOLDER", nargs="?", type=Path, default=Path("output/digits"),
        help="where the files are written (default: %(default)s)",
    )  # fmt: skip
    folder: Path = parser.parse_args().folder
    return folder


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return 1797 images [N, 1, 8, 8] from 0 to 1, and their classes."""
    digits = load_digits()
    return (digits.images[:, None] / 16).astype(np.float32), digits.target.astype(np.float32)


def net(loss: bool, batch: int = BATCH) -> caffe.NetSpec:
    """Return the net for training or for deployment."""
    filler = {"type": "xavier"}
    n = caffe.NetSpec()
    n.data = L.Input(shape={"dim": [batch, 1, 8, 8]})
    n.conv1 = L.Convolution(n.data, num_output=16, kernel_size=3, pad=1, weight_filler=filler)
    n.relu1 = L.ReLU(n.conv1, in_place=True)
    n.pool1 = L.Pooling(n.relu1, pool=P.Pooling.MAX, kernel_size=2, stride=2)
    n.ip1 = L.InnerProduct(n.pool1, num_output=32, weight_filler=filler)
    n.relu2 = L.ReLU(n.ip1, in_place=True)
    n.score = L.InnerProduct(n.relu2, num_output=10, weight_filler=filler)
    if loss:
        n.label = L.Input(shape={"dim": [batch]})
        n.loss = L.SoftmaxWithLoss(n.score, n.label)
    else:
        n.prob = L.Softmax(n.score)
    return n


def make_solver(folder: Path) -> caffe.SGDSolver:
    """Write the nets and the solver's prototxt to a folder, and return the solver."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.prototxt").write_text(str(net(loss=True).to_proto()))
    (folder / "deploy.prototxt").write_text(str(net(loss=False, batch=1).to_proto()))
    (folder / "solver.prototxt").write_text(
        f'net: "{(folder / "train.prototxt").as_posix()}"\n'
        'base_lr: 0.05 momentum: 0.9 lr_policy: "fixed" max_iter: 200 random_seed: 1\n'
    )
    return caffe.SGDSolver(str(folder / "solver.prototxt"))


def train(solver: caffe.SGDSolver, iterations: int) -> list[float]:
    """Step a solver on random batches; return the loss of each step."""
    images, classes = read_digits()
    random = np.random.default_rng(solver.iter)
    losses = []
    for _ in range(iterations):
        selected = random.choice(len(images), BATCH, replace=False)
        solver.net.blobs["data"].data[...] = images[selected]
        solver.net.blobs["label"].data[...] = classes[selected]
        solver.step(1)
        losses.append(float(solver.net.blobs["loss"].data))
    return losses


def trained(folder: Path) -> caffe.Net:
    """Return the deployed net with trained weights; train them if they do not exist yet."""
    weights = folder / "digits.caffemodel"
    if not weights.exists():
        solver = make_solver(folder)
        train(solver, 200)
        solver.net.save(str(weights))
    return caffe.Net(str(folder / "deploy.prototxt"), caffe.TEST, weights=str(weights))
