"""Layers over classes: probabilities from scores, and logits from other logits."""

from __future__ import annotations

import math

from ...layers.shared.scheduled import current
from ...net import LayerNode
from ...proto import caffe_pb2 as pb
from .base import Code, emits, layer_of, listed, number


@emits("Softmax", "SoftmaxWithTemperature")
def _softmax(node: LayerNode, bottoms: list[str]) -> Code:
    layer, x = layer_of(node), bottoms[0]
    if layer.temperature != 1:
        x = f"{x} / {number(layer.temperature)}"
    return Code(f"{{self}}({x})", f"nn.Softmax(dim={layer.class_axis})")


@emits("SoftmaxTemperature")
def _softmax_temperature(node: LayerNode, bottoms: list[str]) -> Code:
    layer, x = layer_of(node), bottoms[0]
    axis = layer.class_axis
    scores = x if layer.param.temperature == 1 else f"{number(layer.param.temperature)} * {x}"
    if not layer.param.is_append:
        return Code(f"{{self}}({scores})", f"nn.Softmax(dim={axis})")
    value = f"{{self}}(F.pad({scores}, {layer.appended})).narrow({axis}, 0, {x}.shape[{axis}])"
    return Code(value, f"nn.Softmax(dim={axis})")


@emits("ClassMap")
def _class_map(node: LayerNode, bottoms: list[str]) -> Code:
    layer, x = layer_of(node), bottoms[0]
    axis, before = layer.class_axis, ":, " * layer.class_axis
    groups = [
        [c for c, is_padding in zip(*rows, strict=True) if not is_padding]
        for rows in zip(layer.members.tolist(), layer.padding.tolist(), strict=True)
    ]
    if max(map(len, groups)) == 1:
        return Code(f"{x}[{before}{[c for (c,) in groups]}]")
    temperature = number(current(layer, "temperature"))
    sums = [f"({x}[{before}{group}] / {temperature}).logsumexp({axis})" for group in groups]
    return Code(f"{temperature} * torch.stack([{listed(sums)}], dim={axis})")


@emits("TeacherEnsemble")
def _teacher_ensemble(node: LayerNode, bottoms: list[str]) -> Code:
    layer = layer_of(node)
    pairs = list(zip(bottoms, layer.weights, strict=True))
    if layer.param.mean == pb.TeacherEnsembleParameter.LOGITS:
        return Code(" + ".join(f"{number(weight)} * {x}" for x, weight in pairs))
    temperature, axis = number(current(layer, "temperature")), layer.class_axis
    terms = [
        f"F.log_softmax({x} / {temperature}, dim={axis}) + {number(math.log(weight))}"
        for x, weight in pairs
        if weight
    ]
    return Code(f"{temperature} * torch.stack([{listed(terms)}]).logsumexp(0)")
