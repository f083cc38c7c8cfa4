"""What ``bench`` trains: nets of prototxt in our solver, and the same in plain PyTorch."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from ..data.backends.idx import write_idx
from ..logs.log import Log
from ..net import load_net
from ..proto import caffe_pb2 as pb
from ..proto.binary import write_weights
from ..solver.plan import read_plan
from ..solver.solver import Solver

BATCH = 64
TEMPERATURE = 4.0

# The nets, once for both: the layers after a 28 x 28 digit. Convolutions are 5 x 5, pools 2 x 2.
LENET = "conv 20, pool, conv 50, pool, ip 500, relu, ip 10"
SMALL_LENET = "conv 8, relu, pool, conv 16, relu, pool, ip 32, relu, ip 10"
MLP_1200 = "ip 1200, relu, ip 1200, relu, ip 10"
MLP_800 = "ip 800, relu, ip 800, relu, ip 10"

# ---- ours

_DATA = """
layer { name: "data" type: "Data" top: "data" top: "label" transform_param { scale: 0.00390625 }
  data_param { source: "%s" backend: IDX batch_size: %d } }
"""
_LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "%s" bottom: "label" top: "loss" }'
_DISTILLER = """
layer { name: "kd" type: "DistillingLoss" bottom: "%s" bottom: "teacher/%s" top: "kd"
  distilling_loss_param { temperature: %g } }
"""
_LEARNED = """param { lr_mult: 1 } param { lr_mult: 2 }
  %s_param { num_output: NUMBER %s weight_filler { type: "xavier" } }"""
_LAYERS = {
    "conv": ("Convolution", _LEARNED % ("convolution", "kernel_size: 5")),
    "ip": ("InnerProduct", _LEARNED % ("inner_product", "")),
    "pool": ("Pooling", "pooling_param { pool: MAX kernel_size: 2 stride: 2 }"),
    "relu": ("ReLU", ""),
}


def net_text(net: str, digits: Path) -> str:
    """Return a net as prototxt; its last layer makes the blob ``logits``."""
    lines, bottom, steps = [_DATA % (digits, BATCH)], "data", net.split(", ")
    for index, step in enumerate(steps):
        kind, _, number = step.partition(" ")
        type_name, details = _LAYERS[kind]
        top = "logits" if index == len(steps) - 1 else f"{kind}{index}"
        top = bottom if kind == "relu" else top
        lines.append(
            f'layer {{ name: "{kind}{index}" type: "{type_name}" bottom: "{bottom}" top: "{top}"'
            f"\n  {details.replace('NUMBER', number)} }}"
        )
        bottom = top
    return "\n".join([*lines, _LOSS % bottom])


def write_digits(folder: Path, samples: int) -> Path:
    """Write made-up digits and labels as IDX files; return the path of the digits."""
    path = folder / "digits-images-idx3-ubyte"
    rng = np.random.default_rng(0)
    write_idx(path, rng.integers(0, 256, (samples, 28, 28), np.uint8))
    write_idx(folder / "digits-labels-idx1-ubyte", rng.integers(0, 10, samples, np.uint8))
    return path


def write_solver(folder: Path, student: str, teacher: str | None, samples: int) -> Path:
    """Write a solver that trains on so many digits, distilling if there is a teacher."""
    digits = write_digits(folder, samples)
    (folder / "student.prototxt").write_text(net_text(student, digits), encoding="utf-8")
    lines = f"""
    net: "student.prototxt" snapshot_prefix: "{folder / "run"}" snapshot_after_train: false
    base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.0005 random_seed: 1
    max_iter: 1000000
    """
    if teacher is not None:
        path, weights = folder / "teacher.prototxt", folder / "teacher.caffemodel"
        path.write_text(net_text(teacher, digits), encoding="utf-8")
        net = load_net(path, pb.TRAIN)
        write_weights(weights, net.param, net.weights())
        distiller = _DISTILLER % ("logits", "logits", TEMPERATURE)
        (folder / "distiller.prototxt").write_text(distiller, encoding="utf-8")
        lines += """
    teacher { net: "teacher.prototxt" weights: "teacher.caffemodel" }
    distiller_net: "distiller.prototxt"
    """
    (folder / "solver.prototxt").write_text(lines, encoding="utf-8")
    return folder / "solver.prototxt"


def make_solver(folder: Path, student: str, teacher: str | None, samples: int) -> Solver:
    """Return our solver, ready to train on so many digits; its log is thrown away."""
    path = write_solver(folder, student, teacher, samples)
    return Solver(read_plan(path), Log(stream=io.StringIO(), progress=False))


# ---- plain PyTorch, as people write it


def module(net: str) -> nn.Module:
    """Return a net as a module."""
    modules: list[nn.Module] = []
    channels, size, flat = 1, 28, False
    for step in net.split(", "):
        kind, _, number = step.partition(" ")
        if kind == "conv":
            modules.append(nn.Conv2d(channels, int(number), 5))
            channels, size = int(number), size - 4
        elif kind == "pool":
            modules.append(nn.MaxPool2d(2))
            size //= 2
        elif kind == "relu":
            modules.append(nn.ReLU())
        else:
            if not flat:
                modules.append(nn.Flatten())
                channels, flat = channels * size**2, True
            modules.append(nn.Linear(channels, int(number)))
            channels = int(number)
    return nn.Sequential(*modules)


def distillation_loss(logits: Tensor, soft: Tensor, labels: Tensor) -> Tensor:
    """Return cross entropy plus T^2 KL, as our student's net and distiller add them."""
    p, q = (F.log_softmax(z / TEMPERATURE, 1) for z in (logits, soft))
    divergence = F.kl_div(p, q, reduction="batchmean", log_target=True)
    return F.cross_entropy(logits, labels) + TEMPERATURE**2 * divergence


class Script:
    """A net, its optimizer, and made-up digits as float tensors in memory.

    Args:
        net: what to train, such as LENET.
        samples: how many digits.
        fast: use channels_last memory and a fused update, which scripts seldom do.
    """

    def __init__(self, net: str, samples: int, fast: bool = False) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.rand(samples, 1, 28, 28, generator=generator)
        self.labels = torch.randint(10, (samples,), generator=generator)
        self.net = module(net)
        if fast:
            self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(
            self.net.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005, fused=fast or None
        )

    def train(self) -> None:
        """Pass over the digits, slice by slice."""
        batches = zip(torch.split(self.images, BATCH), torch.split(self.labels, BATCH), strict=True)
        for images, labels in batches:
            self._learn(F.cross_entropy(self.net(images), labels))

    def distil(self, teacher: nn.Module) -> None:
        """Pass over the digits through a DataLoader, running the teacher in each step."""
        for images, labels in DataLoader(
            TensorDataset(self.images, self.labels), batch_size=BATCH, shuffle=True
        ):
            with torch.no_grad():
                soft = teacher(images)
            self._learn(distillation_loss(self.net(images), soft, labels))

    def repeat(self, steps: int) -> None:
        """Distil one batch repeatedly from given logits: without loading data or a teacher."""
        images, labels = self.images[:BATCH], self.labels[:BATCH]
        soft = images[:, 0, 0, :10]
        for _ in range(steps):
            self._learn(distillation_loss(self.net(images), soft, labels))

    def _learn(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
