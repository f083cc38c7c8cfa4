"""Composes teacher, student and distiller into the one net that is trained.

The result is an ordinary net that can be printed and read: the student's layers as they are, the
teacher's under ``<teacher>/<name>`` and frozen, the distiller's after them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.errors import NetError, did_you_mean
from . import caffe_pb2 as pb
from .filter import filter_net
from .sources import DATA, source_of_layer

# Fields that a layer loses when it becomes a teacher's.
_NOT_OF_A_TEACHER = (
    *("include", "exclude", "param", "propagate_down", "blobs"),
    *("loss_weight", "loss_weight_schedule"),
)
NO_DISTILLING_LOSS = "-temperature and -alpha need a DistillingLoss layer, but the net has none"


@dataclass
class Teacher:
    """A teacher net, before it is filtered.

    Attributes:
        name: the prefix of its layers and blobs: ``<name>/conv1``.
        net: its NetParameter.
        blob_counts: how many parameter blobs each layer has, by layer name; None: not known yet.
    """

    name: str
    net: Any
    blob_counts: Mapping[str, int] | None


def compose(student: Any, teachers: Sequence[Teacher], distiller: Any | None = None) -> Any:
    """Return the net that holds the student, what is used of the teachers, and the distiller.

    A teacher is filtered in phase TEST. Its layers without bottoms are replaced by the student's
    blobs of the same name. Of the others only those remain that lead to a teacher blob in use; they
    get ``phase: TEST``, lr_mult 0, decay_mult 0 (``frozen: true`` where the number of blobs is not
    known), loss_weight 0 and propagate_down false. A teacher that is used only by layers with
    include rules is included by the same rules.

    Args:
        student: the student's NetParameter with the layers of all phases.
        teachers: the teachers; their names differ.
        distiller: a NetParameter whose layers see the student's blobs by name and a teacher's as
            ``<teacher>/<blob>``, or None.

    Raises:
        NetError: a teacher blob in use does not exist, a name is taken twice, or a teacher needs
            input that the student lacks.
    """
    own = list(student.layer)
    added = list(distiller.layer) if distiller is not None else []
    _check_names(own, added)
    composed = pb.NetParameter()
    composed.CopyFrom(student)
    del composed.layer[:]
    frozen: list[Any] = []
    student_blobs = {top for layer in own for top in layer.top}
    for teacher in teachers:
        frozen += _frozen_layers(teacher, [*own, *added], student_blobs)
    _check_names(frozen, [*own, *added])
    start = _start_of_teachers(own, frozen)
    composed.layer.extend([*own[:start], *frozen, *own[start:], *added])
    for net in (*(teacher.net for teacher in teachers), distiller):
        if net is not None:  # which building the composed net refuses
            composed.foreign.extend(net.foreign)
    return composed


def _check_names(taken: Iterable[Any], added: Iterable[Any]) -> None:
    lines = {layer.name: layer.source_line for layer in taken}
    for layer in added:
        if layer.name in lines:
            raise NetError(
                f"layer '{layer.name}' has the name of another layer of the composed net "
                f"({lines[layer.name]}). Give one of them another name",
                layer.source_line or None,
            )


def _frozen_layers(teacher: Teacher, users: Sequence[Any], student_blobs: set[str]) -> list[Any]:
    prefix = f"{teacher.name}/"
    layers = list(filter_net(teacher.net, pb.NetState(phase=pb.TEST)).layer)
    given = {top for layer in layers if is_data(layer) for top in layer.top}
    computing = [layer for layer in layers if not is_data(layer)]
    _check_used_blobs(teacher, computing, users)
    needed = {b.removeprefix(prefix) for u in users for b in u.bottom if b.startswith(prefix)}
    kept: list[Any] = []
    for layer in reversed(computing):
        if needed.intersection(layer.top):
            kept.append(_with_needed_outputs(layer, needed))
            needed.update(layer.bottom)
    for blob in sorted(needed & given - student_blobs):
        raise NetError(
            f"the teacher '{teacher.name}' takes its input '{blob}' from the student, which has "
            f"no blob of this name.{did_you_mean(blob, student_blobs)} Give both the same name",
            _place_of_top(layers, blob),
        )
    rules = _rules_of_users(prefix, users)
    names = {blob: blob for blob in given}  # a teacher blob's name in the composed net
    return [_freeze(layer, teacher, names, rules) for layer in reversed(kept)]


def _with_needed_outputs(layer: Any, needed: set[str]) -> Any:
    """Return a layer, an ONNX model without its unused outputs."""
    if layer.type != "ONNXModel":
        return layer
    fewer = pb.LayerParameter()
    fewer.CopyFrom(layer)
    pairs = list(zip(layer.top, layer.onnx_model_param.output, strict=True))
    fewer.top[:] = [top for top, _ in pairs if top in needed]
    fewer.onnx_model_param.output[:] = [output for top, output in pairs if top in needed]
    return fewer


def is_data(layer: Any) -> bool:
    """Return whether a layer is a source of data, also as an input or as generated values."""
    return source_of_layer(layer) in DATA


def _place_of_top(layers: Sequence[Any], blob: str) -> str | None:
    return next((x.source_line or None for x in layers if blob in x.top), None)


def _check_used_blobs(teacher: Teacher, computing: Sequence[Any], users: Sequence[Any]) -> None:
    prefix = f"{teacher.name}/"
    known = [prefix + top for layer in computing for top in layer.top]
    for user in users:
        for bottom in user.bottom:
            if bottom.startswith(prefix) and bottom not in known:
                raise NetError(
                    f"layer '{user.name}' ({user.type}): the teacher '{teacher.name}' computes no "
                    f"blob '{bottom.removeprefix(prefix)}' in phase TEST."
                    f"{did_you_mean(bottom, known)}",
                    user.source_line or None,
                )


def _rules_of_users(prefix: str, users: Sequence[Any]) -> list[Any]:
    """Return the include rules of all layers that use the teacher; none if one has no rule."""
    rules: list[Any] = []
    for user in users:
        if not any(b.startswith(prefix) for b in user.bottom):
            continue
        if not user.include:
            return []
        rules += [rule for rule in user.include if rule not in rules]
    return rules


def _freeze(layer: Any, teacher: Teacher, names: dict[str, str], rules: Sequence[Any]) -> Any:
    prefix = f"{teacher.name}/"
    frozen = pb.LayerParameter()
    frozen.CopyFrom(layer)
    for field in _NOT_OF_A_TEACHER:
        frozen.ClearField(field)
    frozen.name = prefix + layer.name
    frozen.phase = pb.TEST
    frozen.bottom[:] = [names.get(b, b) for b in layer.bottom if b]
    names.update((top, prefix + top) for top in layer.top)
    frozen.top[:] = [names[top] for top in layer.top]
    frozen.propagate_down.extend([False] * len(frozen.bottom))
    if layer.loss_weight or layer.type.endswith("Loss"):  # the student does not minimise it
        frozen.loss_weight.extend([0.0] * len(frozen.top))
    frozen.include.extend(rules)
    count = len(layer.param)
    if teacher.blob_counts is None:
        frozen.frozen = True
    else:
        count = teacher.blob_counts.get(layer.name, 0)
    for index in range(count):
        spec = frozen.param.add(lr_mult=0, decay_mult=0)
        if index < len(layer.param) and layer.param[index].name:
            spec.name = prefix + layer.param[index].name
            if layer.param[index].HasField("share_mode"):
                spec.share_mode = layer.param[index].share_mode
    return frozen


def _start_of_teachers(own: Sequence[Any], frozen: Sequence[Any]) -> int:
    """Return the teachers' first index: after the last layer without bottoms that feeds them.

    That is before the student's own layers, which may change the input in place.
    """
    used = {b for layer in frozen for b in layer.bottom}
    feeding = [i for i, x in enumerate(own) if source_of_layer(x) and used.intersection(x.top)]
    return feeding[-1] + 1 if feeding else 0


def override_distillation(
    net: Any, temperature: float | None = None, alpha: float | None = None
) -> list[str]:
    """Set temperature and alpha of every DistillingLoss; return what was changed, in words."""
    changes = []
    for layer in net.layer:
        if layer.type != "DistillingLoss":
            continue
        for field, value in (("temperature", temperature), ("alpha", alpha)):
            if value is not None:
                param = layer.distilling_loss_param
                scheduled = param.HasField(f"{field}_schedule")
                before = "its schedule" if scheduled else f"{getattr(param, field):g}"
                param.ClearField(f"{field}_schedule")
                setattr(param, field, value)
                changes.append(
                    f"layer '{layer.name}': {field} {value:g} from the command line "
                    f"instead of {before}"
                )
    return changes
