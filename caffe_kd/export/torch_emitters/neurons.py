"""Elementwise layers."""

from __future__ import annotations

import torch

from ...net import LayerNode
from ...proto import caffe_pb2 as pb
from .base import EMITTERS, Code, Emitter, emits, layer_of, number


def _plain(module: str) -> Emitter:
    return lambda node, bottoms: Code(f"{{self}}({bottoms[0]})", module)


EMITTERS.update(
    Sigmoid=_plain("nn.Sigmoid()"), TanH=_plain("nn.Tanh()"), ReLU6=_plain("nn.ReLU6()")
)


@emits("ReLU")
def _relu(node: LayerNode, bottoms: list[str]) -> Code:
    slope = layer_of(node).param.negative_slope
    module = f"nn.LeakyReLU({number(slope)})" if slope else "nn.ReLU()"
    return Code(f"{{self}}({bottoms[0]})", module)


@emits("ELU")
def _elu(node: LayerNode, bottoms: list[str]) -> Code:
    return Code(f"{{self}}({bottoms[0]})", f"nn.ELU({number(layer_of(node).param.alpha)})")


@emits("Dropout")
def _dropout(node: LayerNode, bottoms: list[str]) -> Code:
    return Code(f"{{self}}({bottoms[0]})", f"nn.Dropout({number(layer_of(node).ratio)})")


@emits("Eltwise")
def _eltwise(node: LayerNode, bottoms: list[str]) -> Code:
    layer = layer_of(node)
    if layer.param.operation == pb.EltwiseParameter.PROD:
        return Code(" * ".join(bottoms))
    if layer.param.operation == pb.EltwiseParameter.MAX:
        value = bottoms[0]
        for bottom in bottoms[1:]:
            value = f"torch.maximum({value}, {bottom})"
        return Code(value)
    pairs = zip(layer.coeff, bottoms, strict=True)
    return Code(" + ".join(x if c == 1 else f"{number(c)} * {x}" for c, x in pairs))


@emits("AbsVal")
def _abs_val(node: LayerNode, bottoms: list[str]) -> Code:
    return Code(f"{bottoms[0]}.abs()")


@emits("BNLL")
def _bnll(node: LayerNode, bottoms: list[str]) -> Code:
    return Code(f"-F.logsigmoid(-{bottoms[0]})")


def clip(x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Limit values; the gradient is 1 at the bounds too, unlike clamp's from torch 2.15 on."""
    x = torch.where(x < low, low, x)
    return torch.where(x > high, high, x)


@emits("Clip")
def _clip(node: LayerNode, bottoms: list[str]) -> Code:
    param = layer_of(node).param
    value = f"clip({bottoms[0]}, {number(param.min)}, {number(param.max)})"
    return Code(value, helpers=(clip,))


@emits("Swish")
def _swish(node: LayerNode, bottoms: list[str]) -> Code:
    x, beta = bottoms[0], layer_of(node).param.beta
    return Code(f"F.silu({x})" if beta == 1 else f"{x} * torch.sigmoid({number(beta)} * {x})")


@emits("Threshold")
def _threshold(node: LayerNode, bottoms: list[str]) -> Code:
    x, threshold = bottoms[0], number(layer_of(node).param.threshold)
    return Code(f"({x} > {threshold}).to({x}.dtype)")


@emits("Power")
def _power(node: LayerNode, bottoms: list[str]) -> Code:
    param, x = layer_of(node).param, bottoms[0]
    if param.power == 0 or param.scale == 0:  # for any x, even an infinite one
        constant = f"torch.full_like({x}, {number(param.shift)})"
        return Code(f"{constant} ** {number(param.power)}")
    y = _linear(x, param.scale, param.shift)
    return Code(y if param.power == 1 else f"({y}) ** {number(param.power)}")


@emits("Exp")
def _exp(node: LayerNode, bottoms: list[str]) -> Code:
    layer = layer_of(node)
    return Code(f"torch.exp({_linear(bottoms[0], layer.scale, layer.shift)})")


@emits("Log")
def _log(node: LayerNode, bottoms: list[str]) -> Code:
    layer = layer_of(node)
    y = f"torch.log({_linear(bottoms[0], layer.param.scale, layer.param.shift)})"
    return Code(y if layer.factor == 1 else f"{number(layer.factor)} * {y}")


def _linear(x: str, scale: float, shift: float) -> str:
    y = x if scale == 1 else f"{number(scale)} * {x}"
    return y if shift == 0 else f"{y} + {number(shift)}"
