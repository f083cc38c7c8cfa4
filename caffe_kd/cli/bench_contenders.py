"""What ``bench`` trains: nets of prototxt in our solver, and the same in plain PyTorch."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from .. import examples
from ..data.idx import write_idx
from ..log import Log
from ..net import load_net
from ..proto import caffe_pb2 as pb
from ..proto import text
from ..proto.binary import write_weights
from ..solver.plan import read_plan
from ..solver.solver import Solver

BATCH = 64
TEMPERATURE = 4.0

# ---- ours


def write_digits(folder: Path, records: int) -> Path:
    """Write made-up digits and labels as IDX files; return the path of the digits."""
    path = folder / "digits-images-idx3-ubyte"
    rng = np.random.default_rng(0)
    write_idx(path, rng.integers(0, 256, (records, 28, 28), np.uint8))
    write_idx(folder / "digits-labels-idx1-ubyte", rng.integers(0, 10, records, np.uint8))
    return path


def write_solver(folder: Path, student: Any, teacher: Any, records: int) -> Path:
    """Write a solver that trains on so many digits, distilling if there is a teacher."""
    solver = pb.SolverParameter(snapshot_prefix=str(folder / "run"))
    text.parse(
        'base_lr: 0.01 momentum: 0.9 weight_decay: 0.0005 lr_policy: "fixed" random_seed: 1 '
        "max_iter: 1000000 snapshot_after_train: false",
        solver,
    )
    digits = write_digits(folder, records)
    solver.net = str(_write_net(folder / "student.prototxt", student, digits))
    if teacher is not None:
        path = _write_net(folder / "teacher.prototxt", teacher, digits)
        weights = folder / "teacher.caffemodel"
        net = load_net(path, pb.TRAIN)
        write_weights(weights, net.param, net.weights())
        solver.teacher.add(net=str(path), weights=str(weights))
        solver.distiller_net = str(examples.folder("mnist") / "distiller.prototxt")
    text.write(folder / "solver.prototxt", solver)
    return folder / "solver.prototxt"


def _write_net(path: Path, net: Any, digits: Path) -> Path:
    for layer in net.layer:
        if layer.type == "Data":
            layer.data_param.source = str(digits)
    text.write(path, net)
    return path


def make_solver(folder: Path, student: Any, teacher: Any, records: int) -> Solver:
    """Return our solver, ready to train on so many digits; nobody reads its log."""
    path = write_solver(folder, student, teacher, records)
    return Solver(read_plan(path), Log(stream=io.StringIO(), progress=False))


def example_net(name: str) -> Any:
    """Return a net of ``prototxt/mnist``."""
    path = examples.folder("mnist") / f"{name}_train_test.prototxt"
    return text.read(path, pb.NetParameter())


def mlp_net(hidden: int) -> Any:
    """Return a net on digits with two hidden layers."""
    net, bottom = pb.NetParameter(name=f"MLP{hidden}"), "data"
    data_and_loss = example_net("lenet").layer
    net.layer.extend(layer for layer in data_and_loss if layer.type == "Data")
    for top, units in (("hidden1", hidden), ("hidden2", hidden), ("ip2", 10)):
        layer = net.layer.add(name=top, type="InnerProduct", bottom=[bottom], top=[top])
        layer.inner_product_param.num_output = units
        layer.inner_product_param.weight_filler.type = "xavier"
        if units == hidden:
            net.layer.add(name=f"relu_{top}", type="ReLU", bottom=[top], top=[top])
        bottom = top
    net.layer.extend(layer for layer in data_and_loss if layer.type == "SoftmaxWithLoss")
    return net


# ---- plain PyTorch, as people write it


def mlp(hidden: int) -> nn.Module:
    """Return a fully connected net of two hidden layers."""
    first, second, last = nn.Linear(784, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 10)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), last)


def lenet() -> nn.Module:
    """Return the net of ``lenet_train_test.prototxt``."""
    convolutions = [nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2)]
    connected = [nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)]
    return nn.Sequential(*convolutions, nn.Flatten(), *connected)


def student() -> nn.Module:
    """Return the net of ``student_train_test.prototxt``."""
    first = [nn.Conv2d(1, 8, 5), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(8, 16, 5), nn.ReLU(), nn.MaxPool2d(2)]
    connected = [nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10)]
    return nn.Sequential(*first, *second, nn.Flatten(), *connected)


def distillation_loss(logits: Tensor, soft: Tensor, labels: Tensor) -> Tensor:
    """Return cross entropy plus T^2 KL, as the student and ``distiller.prototxt`` add them."""
    p, q = (F.log_softmax(z / TEMPERATURE, 1) for z in (logits, soft))
    divergence = F.kl_div(p, q, reduction="batchmean", log_target=True)
    return F.cross_entropy(logits, labels) + TEMPERATURE**2 * divergence


class Script:
    """A net, its optimizer, and made-up digits as float tensors in memory.

    Args:
        net: the net to train.
        records: how many digits.
        fast: lay out memory and update as fast as PyTorch can, which scripts seldom ask for.
    """

    def __init__(self, net: nn.Module, records: int, fast: bool = False) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.rand(records, 1, 28, 28, generator=generator)
        self.labels = torch.randint(10, (records,), generator=generator)
        if fast:
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.net = net
        self.optimizer = torch.optim.SGD(
            net.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005, fused=fast or None
        )

    def train(self) -> None:
        """Pass over the digits, slice by slice."""
        batches = zip(torch.split(self.images, BATCH), torch.split(self.labels, BATCH), strict=True)
        for images, labels in batches:
            self._learn(F.cross_entropy(self.net(images), labels))

    def distil(self, teacher: nn.Module) -> None:
        """Pass over the digits through a DataLoader, asking the teacher in each step."""
        teacher.eval()
        for images, labels in DataLoader(
            TensorDataset(self.images, self.labels), batch_size=BATCH, shuffle=True
        ):
            with torch.no_grad():
                soft = teacher(images)
            self._learn(distillation_loss(self.net(images), soft, labels))

    def repeat(self, steps: int) -> None:
        """Distil one batch again and again from given logits: no data to get, no teacher to ask."""
        images, labels = self.images[:BATCH], self.labels[:BATCH]
        soft = images[:, 0, 0, :10]
        for _ in range(steps):
            self._learn(distillation_loss(self.net(images), soft, labels))

    def _learn(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
