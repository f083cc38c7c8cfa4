"""Rewrites a composed net so that the original Caffe trains it, with ``caffe_kd.plugin``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np

from .errors import NetError, WeightsError
from .layers import layer_types
from .losses.normalization import normalization_mode
from .proto import caffe_pb2 as pb
from .proto.binary import LayerWeights
from .proto.fields import put
from .solver.building import prefixed
from .solver.plan import Plan

PLUGIN = "caffe_kd.plugin"

# The greatest number of a LayerParameter's field in the original; in other messages ours begin at
# the second number, and of the forks' there is one field.
_LAST_OF_LAYER = 148
_OWN = 51001
_OF_FORKS = ("SoftmaxParameter.temperature",)

# The solver's fields that a composed net stands for.
_NETS = ("teacher", "student", "distiller_net", "layer", "inject")

# Types that always have parameters, and those whose first blob has more than one axis, which files
# of the first generations do not tell from one with leading extents of 1.
_WITH_BLOBS = (
    "Convolution",
    "Deconvolution",
    "InnerProduct",
    "Embed",
    "PReLU",
    "BatchNorm",
    "LSTM",
)
_LEGACY_AXES = {"Convolution": 4, "Deconvolution": 4, "InnerProduct": 2}

# What a layer keeps when it becomes a Python layer.
_KEPT = ("name", "bottom", "top", "phase", "include", "exclude", "propagate_down", "loss_weight")

# What to do about what the original lacks, by field or by value.
_INSTEAD = {
    "DataParameter.backend": "Make an LMDB of the digits with tools/convert_mnist_data.py IMAGES "
    'LABELS OUT, and give data_param { source: "OUT" backend: LMDB } in the net',
    "LayerParameter.frozen": "Give param { lr_mult: 0 decay_mult: 0 } for each parameter blob",
    "LayerParameter.loss_weight_schedule": "Drop it, and give a fixed loss_weight",
    "LossParameter.label_smoothing": "Drop it",
}


def weights_for_caffe(plan: Plan, net: Any) -> dict[str, list[np.ndarray | None]]:
    """Return the teachers' weights by the names that their layers have in a composed net.

    With them are those of the student's layers that start from a teacher's. No other layer is
    there, since BVLC Caffe refuses a file with a layer of the net's that lacks its blobs.

    Raises:
        WeightsError: the file of a teacher lacks a layer that has parameters.
    """
    found = [w for teacher in plan.teachers for w in prefixed(teacher.name, teacher.layers)]
    found += [dataclasses.replace(i.weights, name=i.to) for i in plan.injections]
    given = {w.name: w for w in found}
    weights = {}
    for layer in net.layer:
        of = given.get(layer.name)
        if of is not None and of.blobs:
            weights[layer.name] = [_in_own_axes(layer.type, i, of) for i in range(len(of.blobs))]
        if layer.name.partition("/")[0] in plan.frozen_names and layer.type in _WITH_BLOBS:
            if not weights.get(layer.name):
                raise WeightsError(
                    f"layer '{layer.name}' ({layer.type}): the teacher's file has no weights for "
                    "it. Give the file that was trained with this net",
                    layer.source_line or None,
                )
    return weights


def layers_with(net: Any, weights: Collection[str]) -> Any:
    """Return a net with those of its layers alone that have weights, for a file of them."""
    kept = pb.NetParameter(name=net.name)
    kept.layer.extend(layer for layer in net.layer if layer.name in weights)
    return kept


def _in_own_axes(kind: str, index: int, weights: LayerWeights) -> np.ndarray | None:
    """Return a blob without the leading axes that old files fill up to four."""
    blob = weights.blobs[index]
    if blob is None or not weights.legacy[index]:
        return blob
    axes = _LEGACY_AXES.get(kind, 1) if index == 0 else 1
    shape = blob.shape[-axes:]
    return blob.reshape(shape) if blob.size == math.prod(shape) else blob


def settings_to_leave_out(solver: Any) -> list[str]:
    """Return a solver's fields, beside those that name nets, that the original lacks."""
    given = [field for field, _ in solver.ListFields() if field.number >= _OWN]
    return [field.name for field in given if field.name not in ("source_line", *_NETS)]


def net_for_caffe(net: Any, means: Collection[str] = ()) -> Any:
    """Return a composed net with Python layers of the plugin in the place of this package's own.

    Args:
        net: the NetParameter; filtered for a phase or not.
        means: the teachers that follow the student while it learns.

    Raises:
        NetError: something in it is not the original's and the plugin has nothing for it; the
            message lists all such places.
    """
    changed = pb.NetParameter()
    changed.CopyFrom(net)
    del changed.layer[:]
    originals = {name for name, layer in layer_types().items() if layer.origin == "Caffe"}
    problems = [
        f"the teacher '{name}' is a mean of the student (ema), which the original does not "
        "compute. Train here"
        for name in means
    ]
    for given in net.layer:
        if given.name.partition("/")[0] in means:
            continue
        layer = pb.LayerParameter()
        layer.CopyFrom(given)
        layer.bottom[:] = [bottom for bottom in given.bottom if bottom]  # "" is one there
        try:
            ours = _translated(layer)
        except NetError as error:
            problems.append(str(error))
            continue
        changed.layer.append(ours)
        problems += _problems(ours, ours.type in originals)
    if problems:
        raise NetError("\n  ".join(["the original Caffe cannot train this net:", *problems]))
    return changed


def _problems(layer: Any, is_original: bool) -> list[str]:
    """Return what of a layer the original lacks, and what to do about it."""
    if not is_original:
        fact = f"the original has no such type, and the plugin has only {', '.join(_SETTINGS)}"
        return [str(_error(layer, fact))]
    return [str(_error(layer, fact)) for fact in _own_fields(layer)]


def _own_fields(message: Any) -> Iterator[str]:
    for field, value in message.ListFields():
        name = f"{message.DESCRIPTOR.name}.{field.name}"
        if name == "LayerParameter.source_line":
            continue
        last = _LAST_OF_LAYER if message.DESCRIPTOR.name == "LayerParameter" else _OWN - 1
        advice = f" {_INSTEAD[name]}." if name in _INSTEAD else ""
        if field.number > last or name in _OF_FORKS:
            yield f"the original has no field '{field.name}'.{advice}"
        elif field.enum_type is not None and not field.is_repeated and value >= _OWN:
            word = field.enum_type.values_by_number[value].name
            yield f"the original has no {field.name} {word}.{advice}"
        elif field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                yield from _own_fields(part)


def _error(layer: Any, fact: str) -> NetError:
    return NetError(f"layer '{layer.name}' ({layer.type}): {fact}", layer.source_line or None)


def _translated(layer: Any) -> Any:
    """Return a layer, one of this package's types as a Python layer."""
    if layer.type not in _SETTINGS:
        return layer
    python = pb.LayerParameter(type="Python")
    for field, value in layer.ListFields():
        if field.name in _KEPT:
            put(python, field.name, field, value)
    python.source_line = layer.source_line
    settings = _SETTINGS[layer.type](layer)
    python.python_param.module = PLUGIN
    python.python_param.layer = layer.type
    python.python_param.param_str = " ".join(f"{k}: {_text(v)}" for k, v in settings.items())
    if layer.type != "SoftmaxWithTemperature":
        _make_loss(layer, python)
    return python


def _make_loss(layer: Any, python: Any) -> None:
    """Say in the layer's own fields what the type of a loss implies."""
    if not python.loss_weight:
        python.loss_weight.append(1.0)
    if any(layer.propagate_down[1:]):
        raise _error(layer, "the plugin gives a gradient to the student alone. Drop propagate_down")
    if not layer.propagate_down:
        python.propagate_down.extend([True] + [False] * (len(layer.bottom) - 1))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(np.float32(value)) if isinstance(value, float) else str(value)


def _refuse(layer: Any, param: Any, *fields: str) -> None:
    given = {field.name for field, _ in param.ListFields()}
    for field in fields:
        if field in given:
            raise _error(layer, f"the plugin has no {field}. Drop it, or train here")


def _loss_settings(layer: Any) -> dict[str, Any]:
    mode = normalization_mode(layer.loss_param)
    settings = {"normalization": pb.LossParameter.NormalizationMode.Name(mode)}
    if layer.loss_param.HasField("ignore_label"):
        settings["ignore_label"] = layer.loss_param.ignore_label
    return settings


def _distilling_loss(layer: Any) -> dict[str, Any]:
    param = layer.distilling_loss_param
    _refuse(layer, layer, "loss_weight_schedule")
    _refuse(layer, param, "temperature_schedule", "alpha_schedule")
    if param.standardize:
        _refuse(layer, param, "standardize")
    if param.hard_sample_weight != pb.DistillingLossParameter.EQUAL:
        _refuse(layer, param, "hard_sample_weight")
    has_label = len(layer.bottom) > 2
    return {
        "temperature": param.temperature,
        **({"alpha": param.alpha} if has_label or param.HasField("alpha") else {}),
        "divergence": pb.DistillingLossParameter.Divergence.Name(param.divergence),
        "scale_by_temperature": param.scale_by_temperature,
        "axis": param.axis,
        **_loss_settings(layer),
        **({"label_smoothing": layer.loss_param.label_smoothing} if has_label else {}),
    }


def _knowledge_distillation(layer: Any) -> dict[str, Any]:
    spelt = "Knowledge_distillation_param"
    param = getattr(layer, spelt if layer.HasField(spelt) else spelt.lower())
    _refuse(layer, layer, "loss_weight_schedule")
    if param.filter_teacher_pred:
        _refuse(layer, param, "filter_teacher_pred")
    if len(layer.bottom) > 3:
        raise _error(layer, "the plugin takes no fourth bottom. Drop it")
    return {
        "temperature": param.temperature,
        "axis": layer.softmax_param.axis,
        **_loss_settings(layer),
    }


def _softmax_with_temperature(layer: Any) -> dict[str, Any]:
    param = layer.softmax_with_temperature_param
    return {"temperature": param.temperature, "axis": param.axis}


# The types the plugin has, and what of a layer goes into its param_str.
_SETTINGS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "DistillingLoss": _distilling_loss,
    "KnowledgeDistillation": _knowledge_distillation,
    "SoftmaxWithTemperature": _softmax_with_temperature,
}
