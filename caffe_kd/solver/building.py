"""Builds the nets of a plan and initializes their layers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..core.errors import WeightsError
from ..logs.log import Log
from ..net import Net
from ..net.exchanged import exchanged
from ..net.weights import shown
from ..proto import caffe_pb2 as pb
from ..proto.binary import LayerWeights
from .plan import TrainingPlan
from .plan_teachers import Injection


def build(
    param: Any,
    phase: int,
    file: Path | None,
    what: str,
    log: Log,
    device: torch.device,
    exact_sums: bool,
) -> Net:
    """Build a net on a device, and log its layers, shapes and size."""
    log.info(f"Creating {what} from {file}")
    net = Net(param, phase, file)
    if param.force_backward and phase == pb.TRAIN:
        for node in net.nodes:
            node.layer.check_backward()
    net.context.notify = log.info
    net.context.exact_sums = exact_sums
    for node in net.nodes:
        tops = ", ".join(
            f"{name} {' '.join(map(str, shape))}"
            for name, shape in zip(node.tops, node.top_shapes, strict=True)
        )
        log.info(f"Layer {node.layer.name} ({node.layer.type}) -> {tops}")
    count = sum(p.blob.numel() for p in net.params)
    learning = sum(p.blob.numel() for p in net.params if p.blob.requires_grad)
    blobs = sum(math.prod(s) for node in net.nodes for s in node.top_shapes)
    log.info(f"{count} parameters, of which {learning} learn")
    log.info(f"Memory required for data: {4 * blobs}")
    net.to_device(device, channels_last=any(p.blob.dim() == 4 for p in net.params))
    return net


def check_students_come_first(net: Net) -> None:
    """Refuse a loss whose student's and teacher's bottoms are swapped, so that nothing learns.

    Raises:
        NetError: the loss counts, but the layers before its student's bottoms do not learn.
    """
    for node, student, teacher in exchanged(net.nodes):
        layer = node.layer
        if any(node.loss_weights) or layer.proto.HasField("loss_weight_schedule"):
            layer.fail(
                f"no layer before '{student}' learns, but layers before '{teacher}' would, and get "
                "no gradient: the student's bottoms come first, then the teacher's",
                bottoms=node.bottoms,
            )


def prefixed(name: str, layers: Iterable[LayerWeights]) -> list[LayerWeights]:
    """Return a file's weights with the layer names prefixed by the teacher's or student's name."""
    return [replace(w, name=f"{name}/{w.name}") for w in layers]


def load_teachers(plan: TrainingPlan, nets: Sequence[Net], log: Log) -> None:
    """Copy the teachers' weights into their layers.

    Raises:
        WeightsError: a teacher's file lacks weights that are needed, or they do not fit.
    """
    for teacher in plan.teachers:
        renamed = prefixed(teacher.name, teacher.layers)
        given = {w.name for w in renamed if w.blobs}
        for net in nets:
            for layer in (node.layer for node in net.nodes):
                if layer.name.startswith(f"{teacher.name}/") and layer.blobs:
                    _check_given(layer, given, teacher)
            net.copy_weights(renamed, str(teacher.path))
        log.info(f"Teacher '{teacher.name}': weights from {teacher.path}")


def _check_given(layer: Any, given: set[str], teacher: Any) -> None:
    if layer.name not in given:
        raise WeightsError(
            f"{teacher.path}: no weights for layer "
            f"'{layer.name.removeprefix(f'{teacher.name}/')}' of the teacher '{teacher.name}'. "
            f"The file has: {', '.join(w.name for w in teacher.layers if w.blobs)}",
            layer.proto.source_line or None,
        )


def report_new_layers(plan: TrainingPlan, net: Net, log: Log) -> None:
    """Log which layers keep their fillers' values although the net starts from weights."""
    averaged = tuple(f"{name}/" for name in plan.ema_teachers)  # these start as the student
    new = [name for name in net.without_weights() if not name.startswith(averaged)]
    starts_from_files = plan.student_weights or any(student.path for student in plan.students)
    if new and starts_from_files:
        log.info(f"New layers, initialized by their fillers: {shown(new)}")


def inject(plan: TrainingPlan, net: Net, log: Log) -> None:
    """Copy the parameters of teachers' layers into layers of the net, as ``inject`` asks.

    Raises:
        WeightsError: a layer's parameters differ in number or shape from the teacher's.
    """
    for injection in plan.injections:
        node = net.node_of(injection.to)
        if node is None:
            continue  # the layer is in another phase
        layer = node.layer
        given = [None if blob is None else tuple(blob.shape) for blob in injection.weights.blobs]
        if [*given] != [tuple(shape) for shape in layer.blob_shapes]:
            raise WeightsError(
                f"{injection.source} does not fit layer '{layer.name}' ({layer.type}): the "
                f"teacher's parameters have the shapes {_describe(given)}, the student's "
                f"{_describe(layer.blob_shapes)}. Give the student's layer the same num_output, "
                "kernel_size and bottom, or inject a layer of the same shapes",
                plan.where("inject"),
            )
        _copy(injection, net)
        how = ", frozen" if injection.freeze else ""
        log.info(f"Layer {injection.to} starts from {injection.source}{how}")


def _describe(shapes: Sequence[Any]) -> str:
    words = (" x ".join(map(str, shape)) if shape is not None else "shared" for shape in shapes)
    return ", ".join(words) or "none"


def _copy(injection: Injection, net: Net) -> None:
    net.copy_weights([replace(injection.weights, name=injection.to)], injection.source)
