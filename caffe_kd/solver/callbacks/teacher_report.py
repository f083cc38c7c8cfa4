"""Logs teachers' and student's accuracy on the test data before the first iteration."""

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

_SAMPLES = 1000  # the most that are evaluated
_FEWEST = 100  # the fewest from which to conclude that a teacher only guesses
_DEVIATIONS = 3.0  # guessing exceeds chance by this many standard deviations in 1 of 740 cases
_SOFTMAX = ("Softmax", "SoftmaxWithTemperature")


@dataclass
class _Path:
    """The nodes from a test net's samples to logits, and the logits' name."""

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
    """Evaluates each teacher and the student on the first samples of the first test net.

    Samples are read by number, and layers run in phase TEST, so that no random number is drawn and
    no data layer advances.

    Args:
        teachers: the teachers' names.
    """

    def __init__(self, teachers: Sequence[str]) -> None:
        self._teachers = teachers
        self._done = False

    def on_start(self, solver: Solver) -> None:
        """Log the results, once, before the first iteration."""
        if self._done or solver.iter > 0:
            return
        self._done = True
        try:
            _report(solver, self._teachers)
        except CaffeKDError as error:  # the training itself may still be possible
            solver.log.info(f"Teacher and student are not evaluated before training: {error}")


@torch.no_grad()
def _report(solver: Solver, teachers: Sequence[str]) -> None:
    net = solver.test_nets[0]
    evaluated = _evaluated_blobs(net)
    if evaluated is None:
        return
    student_logits, label = evaluated
    source = _source(net, label)
    if source is None:
        return
    classes = math.prod(net.shapes[student_logits][1:])
    paths = {"student": _path_to(net, student_logits, source)}
    for name in teachers:
        logits = _logits(solver.net, name, classes)
        if logits is not None:
            paths[f"teacher '{name}'"] = _path_to(solver.net, logits, source)
    found = {who: path for who, path in paths.items() if path is not None}
    if "student" not in found or len(found) == 1:
        return
    scores = _scores(source, label, found, solver.param.test_iter[0])
    if scores is None:
        return
    count = scores["student"].samples
    # The teachers first: they are what the line is for.
    order = [*(who for who in scores if who != "student"), "student"]
    results = "; ".join(f"{who}: {scores[who]}" for who in order)
    solver.log.info(f"Before training, on {count} test samples: {results}")
    for who in order[:-1]:
        if scores[who].is_guessing(classes):
            solver.log.warning(
                f"{who} is right on {scores[who].right} of {count} test samples, no better than a "
                f"guess among {classes} classes. Likely causes: different preprocessing than "
                "in its training (scale, mean, BGR or RGB), a different order of classes, or the "
                "weights of a different net"
            )


def _evaluated_blobs(net: Net) -> tuple[str, str] | None:
    """Return the blobs of the student's logits and of the labels."""
    for kind in ("Accuracy", "SoftmaxWithLoss"):
        for node in net.nodes:
            if node.layer.type == kind and len(node.bottoms) == 2:
                logits, label = node.bottoms
                flat = math.prod(net.shapes[label]) == net.shapes[logits][0]
                return (_before_softmax(net, logits), label) if flat else None
    return None


def _source(net: Net, label: str) -> LayerNode | None:
    """Return the data layer of the labels, if its samples can be read by number."""
    node = next((node for node in net.nodes if label in node.tops and not node.bottoms), None)
    if node is None or not isinstance(node.layer, SampleLayer) or not node.layer.deterministic:
        return None
    return node


def _logits(net: Net, teacher: str, classes: int) -> str | None:
    """Return the blob of a teacher's logits: a bottom of a loss, else the last that fits."""
    prefix = f"{teacher}/"
    losses = [node for node in net.nodes if node.layer.is_loss and node.layer.origin == "caffe_kd"]
    compared = [b for node in losses for b in node.bottoms if b.startswith(prefix)]
    tops = [t for node in net.nodes if node.layer.name.startswith(prefix) for t in node.tops]
    for name in (*compared, *reversed(tops)):
        if name in net.shapes and math.prod(net.shapes[name][1:]) == classes:
            return _before_softmax(net, name)
    return None


def _before_softmax(net: Net, name: str) -> str:
    producer = next((node for node in reversed(net.nodes) if name in node.tops), None)
    if producer is not None and producer.layer.type in _SOFTMAX and producer.bottoms[0] != name:
        return producer.bottoms[0]
    return name


def _path_to(net: Net, logits: str, source: LayerNode) -> _Path | None:
    """Return the nodes from the source to the logits; None if other inputs are needed."""
    wanted = {logits}
    nodes: list[LayerNode] = []
    for node in reversed(net.nodes):
        if node.bottoms and not wanted.isdisjoint(node.tops):
            nodes.insert(0, node)
            wanted.update(node.bottoms)
    tops: Collection[str] = {top for node in nodes for top in node.tops}
    is_stateless = all(not node.layer.state() and node.layer.type != "Python" for node in nodes)
    has_inputs = wanted <= {*tops, *source.tops}
    return _Path(nodes, logits) if is_stateless and has_inputs and nodes else None


def _scores(
    source: LayerNode, label: str, paths: dict[str, _Path], batches: int
) -> dict[str, _Score] | None:
    layer = source.layer
    assert isinstance(layer, SampleLayer)
    batch = source.top_shapes[0][0]
    most = min(layer.sample_count, batch * batches, max(batch, _SAMPLES))
    scores = {who: _Score() for who in paths}
    for start in range(0, most - batch + 1, batch):
        data = dict(zip(source.tops, layer.read(slice(start, start + batch)), strict=True))
        labels = data[label].flatten().long()
        for who, path in paths.items():
            logits = _run(path, data).reshape(batch, -1)
            if not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
                return None
            scores[who].add(logits, labels)
    return scores if scores["student"].samples else None


def _run(path: _Path, data: dict[str, Tensor]) -> Tensor:
    blobs = dict(data)
    for node in path.nodes:
        # In-place layers may write to their bottoms.
        bottoms = [blobs[b].clone() if b in data else blobs[b] for b in node.bottoms]
        result = node.layer(*bottoms)
        tops = (result,) if isinstance(result, Tensor) else result
        blobs.update(zip(node.tops, tops, strict=True))
    return blobs[path.logits]


def build(solver: Solver, options: Options) -> Iterator[Callback]:
    """Yield the callback if the solver has trained teachers and a test net."""
    # debug_info would log these passes as if they were the training's.
    if solver.plan.teachers and solver.test_nets and not solver.param.debug_info:
        yield TeacherReport([teacher.name for teacher in solver.plan.teachers])
