"""Finds the logits of teachers and student, and computes them for samples of the first test net.

Samples are read by number, and layers run in phase TEST, so that no random number is drawn and no
data layer advances.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..layers.shared.sample_layer import SampleLayer
from ..net import LayerNode, Net

if TYPE_CHECKING:
    from .solver import Solver

_SOFTMAX = ("Softmax", "SoftmaxWithTemperature")


@dataclass
class LogitsPath:
    """The nodes from a test net's samples to logits, and the logits' name."""

    nodes: list[LayerNode]
    logits: str


@dataclass
class EvaluatedLogits:
    """What computes the logits of teachers and student.

    Attributes:
        source: the data layer of the samples.
        label: the blob of their labels.
        classes: how many classes there are.
        paths: the path to the logits of ``student`` and of each ``teacher '<name>'``.
    """

    source: LayerNode
    label: str
    classes: int
    paths: Mapping[str, LogitsPath]

    @property
    def samples(self) -> int:
        """How many samples there are."""
        assert isinstance(self.source.layer, SampleLayer)
        return self.source.layer.sample_count

    @property
    def batch(self) -> int:
        """How many samples are computed at a time."""
        return self.source.top_shapes[0][0]

    @torch.no_grad()
    def batch_from(self, start: int) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Return the labels, each net's logits (N, C), and the first blob of a batch of samples."""
        layer, tops = self.source.layer, self.source.tops
        assert isinstance(layer, SampleLayer)
        data = dict(zip(tops, layer.read(slice(start, start + self.batch)), strict=True))
        logits = {who: _run(path, data).reshape(self.batch, -1) for who, path in self.paths.items()}
        return data[self.label].flatten().long(), logits, data[tops[0]]


def logits_on_tests(solver: Solver, teachers: Sequence[str]) -> EvaluatedLogits | None:
    """Return what computes the logits of teachers and student; None if there is no way to."""
    net = solver.test_nets[0]
    evaluated = _evaluated_blobs(net)
    if evaluated is None:
        return None
    student_logits, label = evaluated
    source = _source(net, label)
    if source is None:
        return None
    classes = math.prod(net.shapes[student_logits][1:])
    paths = {"student": _path_to(net, student_logits, source)}
    for name in teachers:
        logits = _logits(solver.net, name, classes)
        if logits is not None:
            paths[f"teacher '{name}'"] = _path_to(solver.net, logits, source)
    found = {who: path for who, path in paths.items() if path is not None}
    if "student" not in found or len(found) == 1:
        return None
    return EvaluatedLogits(source, label, classes, found)


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


def _path_to(net: Net, logits: str, source: LayerNode) -> LogitsPath | None:
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
    return LogitsPath(nodes, logits) if is_stateless and has_inputs and nodes else None


def _run(path: LogitsPath, data: dict[str, Tensor]) -> Tensor:
    blobs = dict(data)
    for node in path.nodes:
        # In-place layers may write to their bottoms.
        bottoms = [blobs[b].clone() if b in data else blobs[b] for b in node.bottoms]
        result = node.layer(*bottoms)
        tops = (result,) if isinstance(result, Tensor) else result
        blobs.update(zip(node.tops, tops, strict=True))
    return blobs[path.logits]
