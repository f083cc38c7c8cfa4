"""Rewrites layers of this package's types as Python layers of ``caffe_kd.plugin``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.errors import NetError
from ..losses.normalization import normalization_mode
from ..proto import caffe_pb2 as pb
from ..proto.fields import put

PLUGIN = "caffe_kd.plugin"

# The fields that a layer keeps when it becomes a Python layer.
_KEPT = (
    *("name", "bottom", "top", "phase", "include", "exclude", "propagate_down", "loss_weight"),
    "param",
)


def error(layer: Any, fact: str) -> NetError:
    """Return an error about a layer."""
    return NetError(f"layer '{layer.name}' ({layer.type}): {fact}", layer.source_line or None)


def is_translated(layer: Any) -> bool:
    """Return whether the plugin has the layer and BVLC Caffe does not."""
    if layer.type == "SoftmaxWithLoss":
        return bool(layer.loss_param.label_smoothing)
    return layer.type in _SETTINGS


def translated(layer: Any) -> Any:
    """Return a layer, as a Python layer if the plugin has it.

    Raises:
        NetError: the plugin's layer lacks a setting.
    """
    if not is_translated(layer):
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
    if layer.type == "TeacherEnsemble":
        _cut_off(layer, python, 0)
    elif layer.type.endswith(("Loss", "Distillation")):
        _make_loss(layer, python)
    return python


def _make_loss(layer: Any, python: Any) -> None:
    """Write what a loss type implies, such as its loss_weight, into the layer's fields."""
    _refuse(layer, layer, "loss_weight_schedule")
    if len(layer.top) > 1:
        raise error(layer, "the plugin has no second top. Drop it")
    if not python.loss_weight:
        python.loss_weight.append(1.0)
    _cut_off(layer, python, 2 if layer.type == "FSPLoss" else 1)


def _cut_off(layer: Any, python: Any, students: int) -> None:
    """Limit the gradient to the student's bottoms, which come first."""
    if any(layer.propagate_down[students:]):
        raise error(layer, "the plugin gives a gradient only to the student. Drop propagate_down")
    if not layer.propagate_down:
        others = len(layer.bottom) - students
        python.propagate_down.extend([True] * students + [False] * others)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(np.float32(value)) if isinstance(value, float) else str(value)


def _refuse(layer: Any, param: Any, *fields: str) -> None:
    given = {field.name for field, _ in param.ListFields()}
    for field in fields:
        if field in given:
            instead = " Give a fixed value" if field.endswith("_schedule") else " Drop it"
            raise error(layer, f"the plugin has no {field}.{instead}, or train here")


def _of(name: str) -> Callable[[Any], dict[str, Any]]:
    """Return a function that reads the settings of a layer's block of that name."""
    return lambda layer: _block(layer, getattr(layer, name))


def _block(layer: Any, param: Any) -> dict[str, Any]:
    """Return all fields of a message: numbers, enum names and lists of numbers."""
    settings: dict[str, Any] = {}
    for field in param.DESCRIPTOR.fields:
        value = getattr(param, field.name)
        if field.message_type is not None:
            _refuse(layer, param, field.name)
        elif field.is_repeated:
            if value:
                settings[field.name] = f"'{' '.join(map(_text, value))}'"
        elif field.enum_type is not None:
            settings[field.name] = field.enum_type.values_by_number[value].name
        else:
            settings[field.name] = value
    return settings


def _loss_settings(layer: Any) -> dict[str, Any]:
    mode = normalization_mode(layer.loss_param)
    settings = {"normalization": pb.LossParameter.NormalizationMode.Name(mode)}
    if layer.loss_param.HasField("ignore_label"):
        settings["ignore_label"] = layer.loss_param.ignore_label
    return settings


def _distilling_loss(layer: Any) -> dict[str, Any]:
    param, has_label = layer.distilling_loss_param, len(layer.bottom) > 2
    settings = {**_block(layer, param), **_loss_settings(layer)}
    if has_label:
        settings["label_smoothing"] = layer.loss_param.label_smoothing
    elif not param.HasField("alpha"):
        del settings["alpha"]
    return settings


def _decoupled_distilling_loss(layer: Any) -> dict[str, Any]:
    return {**_block(layer, layer.decoupled_distilling_loss_param), **_loss_settings(layer)}


def _softmax_with_loss(layer: Any) -> dict[str, Any]:
    smoothing = {"label_smoothing": layer.loss_param.label_smoothing}
    return {**smoothing, "axis": layer.softmax_param.axis, **_loss_settings(layer)}


def _knowledge_distillation(layer: Any) -> dict[str, Any]:
    spelt = "Knowledge_distillation_param"
    param = getattr(layer, spelt if layer.HasField(spelt) else spelt.lower())
    if param.filter_teacher_pred:
        _refuse(layer, param, "filter_teacher_pred")
    if len(layer.bottom) > 3:
        raise error(layer, "the plugin takes no fourth bottom. Drop it")
    return {
        "temperature": param.temperature,
        "axis": layer.softmax_param.axis,
        **_loss_settings(layer),
    }


def _class_map(layer: Any) -> dict[str, Any]:
    param = layer.class_map_param
    _refuse(layer, param, "temperature_schedule")
    groups = [[c] for c in getattr(param, "class")]
    groups += [list(getattr(group, "class")) for group in param.group]
    words = "/".join(" ".join(map(str, group)) for group in groups)
    return {"group": f"'{words}'", "temperature": param.temperature, "axis": param.axis}


def _nothing(layer: Any) -> dict[str, Any]:
    return {}


# The plugin's types, and the function that reads the settings for param_str.
_SETTINGS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "DistillingLoss": _distilling_loss,
    "KnowledgeDistillation": _knowledge_distillation,
    "SoftmaxWithTemperature": _of("softmax_with_temperature_param"),
    "DecoupledDistillingLoss": _decoupled_distilling_loss,
    "DISTLoss": _of("dist_loss_param"),
    "SoftmaxWithLoss": _softmax_with_loss,
    "HintLoss": _of("hint_loss_param"),
    "AttentionTransferLoss": _nothing,
    "FSPLoss": _nothing,
    "NSTLoss": _nothing,
    "FactorTransferLoss": _of("factor_transfer_loss_param"),
    "ABLoss": _of("ab_loss_param"),
    "VIDLoss": _of("vid_loss_param"),
    "SimilarityPreservingLoss": _nothing,
    "RelationalDistanceLoss": _nothing,
    "RelationalAngleLoss": _nothing,
    "PKTLoss": _nothing,
    "CorrelationCongruenceLoss": _nothing,
    "SampleGraphLoss": _of("sample_graph_loss_param"),
    "TeacherEnsemble": _of("teacher_ensemble_param"),
    "ClassMap": _class_map,
}
