"""Says before the first iteration how good teacher and student are on the test data."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...core.errors import CaffeKDError
from ...layers.shared.sample_layer import SampleLayer
from ...net import LayerNode, Net
from ..callback import Callback
from ..options import Options

if TYPE_CHECKING:
    from ..solver import Solver

_SAMPLES = 1000  # at most so many are looked at
_FEWEST = 100  # and from so many on it is said whether a teacher only guesses
_DEVIATIONS = 3.0  # a guess is right so many standard deviations more often in 1 of 740 cases
_SOFTMAX = ("Softmax", "SoftmaxWithTemperature")


@dataclass
class _Scored:
    """Layers that lead from a test net's samples to logits, and the names of the blobs."""

    nodes: list[LayerNode]
    logits: str


@dataclass
class _Score:
    right: int = 0
    loss: float = 0.0
    samples: int = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        self.right += int((logits.argmax(1) == labels).sum())
        self.loss += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        self.samples += len(labels)

    def __str__(self) -> str:
        return f"accuracy = {self.right / self.samples:g}, loss = {self.loss / self.samples:g}"

    def is_guessing(self, classes: int) -> bool:
        chance = self.samples / classes
        margin = _DEVIATIONS * math.sqrt(chance * (1 - 1 / classes))
        return self.samples >= _FEWEST and self.right <= chance + margin


class TeacherReport(Callback):
    """Scores each teacher and the student on the first samples of the first test net.

    The data layer is asked for samples by their numbers, and layers are run in phase TEST, so that
    no random number is drawn and no data layer moves on.

    Args:
        teachers: the teachers' names.
    """

    def __init__(self, teachers: Sequence[str]) -> None:
        self._teachers = teachers
        self._done = False

    def on_start(self, solver: Solver) -> None:
        """Log the scores, once, before the first iteration."""
        if self._done or solver.iter > 0:
            return
        self._done = True
        try:
            _report(solver, self._teachers)
        except CaffeKDError as error:  # the training itself may still be able to go on
            solver.log.info(f"Teacher and student are not scored beforehand: {error}")


@torch.no_grad()
def _report(solver: Solver, teachers: Sequence[str]) -> None:
    net = solver.test_nets[0]
    judged = _judged(net)
    if judged is None:
        return
    student_logits, label = judged
    source = _source(net, label)
    if source is None:
        return
    classes = math.prod(net.shapes[student_logits][1:])
    scored = {"student": _leading_to(net, student_logits, source)}
    for name in teachers:
        logits = _logits(solver.net, name, classes)
        if logits is not None:
            scored[f"teacher '{name}'"] = _leading_to(solver.net, logits, source)
    found = {who: way for who, way in scored.items() if way is not None}
    if "student" not in found or len(found) == 1:
        return
    scores = _scores(source, label, found, solver.param.test_iter[0])
    if scores is None:
        return
    count = scores["student"].samples
    # The teachers first: they are what the line is for.
    order = [*(who for who in scores if who != "student"), "student"]
    said = "; ".join(f"{who}: {scores[who]}" for who in order)
    solver.log.info(f"Before training, on {count} test samples: {said}")
    for who in order[:-1]:
        if scores[who].is_guessing(classes):
            solver.log.warning(
                f"{who} is right on {scores[who].right} of {count} test samples, no more than a "
                f"guess among {classes} classes. Likely causes: other pixels than it was trained "
                "on (scale, mean, BGR for RGB), classes in another order, or weights of another net"
            )


def _judged(net: Net) -> tuple[str, str] | None:
    """Return the blobs of the student's logits and of the labels."""
    for kind in ("Accuracy", "SoftmaxWithLoss"):
        for node in net.nodes:
            if node.layer.type == kind and len(node.bottoms) == 2:
                logits, label = node.bottoms
                flat = math.prod(net.shapes[label]) == net.shapes[logits][0]
                return (_before_softmax(net, logits), label) if flat else None
    return None


def _source(net: Net, label: str) -> LayerNode | None:
    """Return the data layer that gives the labels, if its samples can be had by number."""
    node = next((node for node in net.nodes if label in node.tops and not node.bottoms), None)
    if node is None or not isinstance(node.layer, SampleLayer) or not node.layer.deterministic:
        return None
    return node


def _logits(net: Net, teacher: str, classes: int) -> str | None:
    """Return the blob of a teacher's logits: what a loss compares, else the last that fits."""
    prefix = f"{teacher}/"
    losses = [node for node in net.nodes if node.layer.is_loss and node.layer.origin == "caffe_kd"]
    compared = [b for node in losses for b in node.bottoms if b.startswith(prefix)]
    made = [t for node in net.nodes if node.layer.name.startswith(prefix) for t in node.tops]
    for name in (*compared, *reversed(made)):
        if name in net.shapes and math.prod(net.shapes[name][1:]) == classes:
            return _before_softmax(net, name)
    return None


def _before_softmax(net: Net, name: str) -> str:
    maker = next((node for node in reversed(net.nodes) if name in node.tops), None)
    if maker is not None and maker.layer.type in _SOFTMAX and maker.bottoms[0] != name:
        return maker.bottoms[0]
    return name


def _leading_to(net: Net, logits: str, source: LayerNode) -> _Scored | None:
    """Return the layers from the source to the logits; None where others are needed too."""
    wanted = {logits}
    nodes: list[LayerNode] = []
    for node in reversed(net.nodes):
        if node.bottoms and not wanted.isdisjoint(node.tops):
            nodes.insert(0, node)
            wanted.update(node.bottoms)
    made: Collection[str] = {top for node in nodes for top in node.tops}
    plain = all(not node.layer.state() and node.layer.type != "Python" for node in nodes)
    is_fed = wanted <= {*made, *source.tops}
    return _Scored(nodes, logits) if plain and is_fed and nodes else None


def _scores(
    source: LayerNode, label: str, found: dict[str, _Scored], batches: int
) -> dict[str, _Score] | None:
    layer = source.layer
    assert isinstance(layer, SampleLayer)
    batch = source.top_shapes[0][0]
    most = min(layer.sample_count, batch * batches, max(batch, _SAMPLES))
    scores = {who: _Score() for who in found}
    for start in range(0, most - batch + 1, batch):
        data = dict(zip(source.tops, layer.read(slice(start, start + batch)), strict=True))
        labels = data[label].flatten().long()
        for who, way in found.items():
            logits = _run(way, data).reshape(batch, -1)
            if not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
                return None
            scores[who].add(logits, labels)
    return scores if scores["student"].samples else None


def _run(way: _Scored, data: dict[str, Tensor]) -> Tensor:
    blobs = dict(data)
    for node in way.nodes:
        # Layers in place may write to what they are given.
        bottoms = [blobs[b].clone() if b in data else blobs[b] for b in node.bottoms]
        result = node.layer(*bottoms)
        tops = (result,) if isinstance(result, Tensor) else result
        blobs.update(zip(node.tops, tops, strict=True))
    return blobs[way.logits]


def build(solver: Solver, options: Options) -> Iterator[Callback]:
    """Yield the callback if the solver has trained teachers and a test net."""
    # debug_info would log these passes as if they were the training's.
    if solver.plan.teachers and solver.test_nets and not solver.param.debug_info:
        yield TeacherReport([teacher.name for teacher in solver.plan.teachers])
