"""Power, Exp and Log: layers that map each value by a function of ``shift + scale * x``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..base import Layer, Shape, register
from .neurons import Neuron

if TYPE_CHECKING:
    from ...export.graph import Graph


def _linear(x: Tensor, scale: float, shift: float) -> Tensor:
    y = x if scale == 1 else x * scale
    return y if shift == 0 else y + shift


def _linear_onnx(graph: Graph, value: str, scale: float, shift: float) -> str:
    for op, number in (("Mul", scale), ("Add", shift)):
        result = graph.temporary(op.lower())
        graph.node(op, [value, graph.constant(number, op.lower())], [result])
        value = result
    return value


def _log_base(layer: Layer) -> float:
    """Return the natural logarithm of ``base``, where -1 stands for e."""
    base = layer.param.base
    if base == -1:
        return 1.0
    if not base > 0:
        layer.fail("base must be strictly positive, or -1 for e", base=base)
    if math.isinf(base):
        layer.fail("Inf result: log(base) must be finite", base=base)
    return math.log(base)


@register("Power", param="power_param")
class Power(Neuron):
    """A power of a linear function: ``(shift + scale * x) ^ power``.

    Bottom, top: any shape. A fractional power of a negative value is NaN.

    Source: Caffe's PowerLayer. Its gradient at 0 without shift, 0 / 0 there, is the mathematical
    one here.

    Sample::

        layer {
          name: "to_unit_range"
          type: "Power"
          bottom: "data"  # (2, 3, 8, 8)
          top: "data_scaled"  # (2, 3, 8, 8)
          power_param { scale: 0.0078125 shift: -1 }
        }
    """

    def forward(self, x: Tensor) -> Tensor:
        param = self.param
        if param.power == 0 or param.scale == 0:  # whatever x is, even infinite
            return torch.full_like(x, param.shift).pow(param.power)
        y = _linear(x, param.scale, param.shift)
        return y if param.power == 1 else y.pow(param.power)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        value = _linear_onnx(graph, bottoms[0], self.param.scale, self.param.shift)
        graph.node("Pow", [value, graph.constant(self.param.power, "power")], tops)


@register("Exp", param="exp_param")
class Exp(Neuron):
    """An exponential: ``base ^ (shift + scale * x)``, with base e unless given.

    Bottom: any shape. Top: the same, above 0.

    Raises:
        NetError: base is neither above 0 and finite, nor -1 for e.

    Source: Caffe's ExpLayer.

    Sample::

        layer {
          name: "exp"
          type: "Exp"
          bottom: "x"  # (2, 10)
          top: "exp"  # (2, 10)
          exp_param { base: 2 scale: 0.5 }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        log_base = _log_base(self)
        self.scale, self.shift = log_base * self.param.scale, log_base * self.param.shift

    def forward(self, x: Tensor) -> Tensor:
        return _linear(x, self.scale, self.shift).exp()

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        graph.node("Exp", [_linear_onnx(graph, bottoms[0], self.scale, self.shift)], tops)


@register("Log", param="log_param")
class Log(Neuron):
    """A logarithm: ``log(shift + scale * x)`` to ``base``, which is e unless given.

    Bottom, top: any shape. The logarithm of 0 is -inf, that of a negative value NaN.

    Raises:
        NetError: base is neither above 0, finite and other than 1, nor -1 for e.

    Source: Caffe's LogLayer.

    Sample::

        layer {
          name: "log"
          type: "Log"
          bottom: "prob"  # (2, 10)
          top: "log_prob"  # (2, 10)
          log_param { shift: 1e-6 }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        log_base = _log_base(self)
        if log_base == 0:
            self.fail("Inf result: 1/log(base) must be finite", base=self.param.base)
        self.factor = 1 / log_base

    def forward(self, x: Tensor) -> Tensor:
        y = _linear(x, self.param.scale, self.param.shift).log()
        return y if self.factor == 1 else y * self.factor

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        natural = graph.temporary("natural")
        value = _linear_onnx(graph, bottoms[0], self.param.scale, self.param.shift)
        graph.node("Log", [value], [natural])
        graph.node("Mul", [natural, graph.constant(self.factor, "factor")], tops)
