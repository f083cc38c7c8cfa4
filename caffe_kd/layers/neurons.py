"""The layers that map each value alone by a fixed function, one line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Layer, Shape, register

if TYPE_CHECKING:
    from ..export.graph import Graph


class Neuron(Layer):
    """The base of layers whose top has the shape of their bottom."""

    @property
    def per_record(self) -> bool:
        return True

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return bottom_shapes


@register("ReLU", param="relu_param")
class ReLU(Neuron):
    """The rectifier: ``max(x, 0) + negative_slope * min(x, 0)``; at 0 the gradient is the slope.

    Bottom, top: any shape.

    Source: Nair and Hinton 2010; Caffe's ReLULayer.
    """

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        slope = self.param.negative_slope
        return F.leaky_relu(x, slope) if slope else F.relu(x)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        slope = self.param.negative_slope
        if slope:
            graph.node("LeakyRelu", bottoms, tops, alpha=slope)
        else:
            graph.node("Relu", bottoms, tops)


@register("Sigmoid", param="sigmoid_param")
class Sigmoid(Neuron):
    """The logistic function: ``1 / (1 + exp(-x))``.

    Bottom: any shape. Top: the same, in (0, 1).

    Source: Caffe's SigmoidLayer.
    """

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return torch.sigmoid(x)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        graph.node("Sigmoid", bottoms, tops)


@register("TanH", param="tanh_param")
class TanH(Neuron):
    """The hyperbolic tangent.

    Bottom: any shape. Top: the same, in (-1, 1).

    Source: Caffe's TanHLayer.
    """

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return torch.tanh(x)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        graph.node("Tanh", bottoms, tops)


@register("ELU", param="elu_param")
class ELU(Neuron):
    """The exponential linear unit: ``x`` above 0, ``alpha (exp(x) - 1)`` below.

    Bottom, top: any shape.

    Source: Clevert et al. 2015; Caffe's ELULayer.
    """

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return F.elu(x, self.param.alpha)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        graph.node("Elu", bottoms, tops, alpha=self.param.alpha)


@register("Power", param="power_param")
class Power(Neuron):
    """A power of a linear function: ``(shift + scale * x) ^ power``.

    Bottom, top: any shape. A broken power of a negative value is NaN.

    Source: Caffe's PowerLayer. Its gradient at 0 without shift, 0 / 0 there, is the mathematical
    one here.
    """

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        param = self.param
        if param.power == 0 or param.scale == 0:  # whatever x is, even infinite
            return torch.full_like(x, param.shift).pow(param.power)
        y = x if param.scale == 1 else x * param.scale
        if param.shift != 0:
            y = y + param.shift
        return y if param.power == 1 else y.pow(param.power)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        param = self.param
        value = bottoms[0]
        for op, number in (("Mul", param.scale), ("Add", param.shift)):
            result = graph.temporary(op.lower())
            graph.node(op, [value, graph.constant(number, op.lower())], [result])
            value = result
        graph.node("Pow", [value, graph.constant(param.power, "power")], tops)
