"""The layers that apply a fixed function to each value, one line each.

Those of a linear function of the value (Power, Exp, Log) are in powers.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base import Layer, Shape, register

if TYPE_CHECKING:
    from ...export.graph import Graph

_FLOAT = 1  # as ONNX numbers it


class Neuron(Layer):
    """The base of layers whose top has the shape of their bottom."""

    @property
    def per_sample(self) -> bool:
        return True

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return bottom_shapes


@register("ReLU", param="relu_param")
class ReLU(Neuron):
    """The rectifier: ``max(x, 0) + negative_slope * min(x, 0)``; at 0 the gradient is the slope.

    Bottom, top: any shape.

    Source: Nair and Hinton 2010; Caffe's ReLULayer.

    Sample::

        layer {
          name: "relu1"
          type: "ReLU"
          bottom: "conv1"  # (2, 4, 8, 8)
          top: "conv1"  # (2, 4, 8, 8)
          relu_param { negative_slope: 0.1 }
        }
    """

    def forward(self, x: Tensor) -> Tensor:
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

    Sample::

        layer {
          name: "gate"
          type: "Sigmoid"
          bottom: "ip1"  # (2, 10)
          top: "gate"  # (2, 10)
        }
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        graph.node("Sigmoid", bottoms, tops)


@register("TanH", param="tanh_param")
class TanH(Neuron):
    """The hyperbolic tangent.

    Bottom: any shape. Top: the same, in (-1, 1).

    Source: Caffe's TanHLayer.

    Sample::

        layer {
          name: "tanh1"
          type: "TanH"
          bottom: "ip1"  # (2, 10)
          top: "ip1"  # (2, 10)
        }
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        graph.node("Tanh", bottoms, tops)


@register("ELU", param="elu_param")
class ELU(Neuron):
    """The exponential linear unit: ``x`` above 0, ``alpha (exp(x) - 1)`` below.

    Bottom, top: any shape.

    Source: Clevert et al. 2015; Caffe's ELULayer.

    Sample::

        layer {
          name: "elu1"
          type: "ELU"
          bottom: "conv1"  # (2, 4, 8, 8)
          top: "conv1"  # (2, 4, 8, 8)
          elu_param { alpha: 0.5 }
        }
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(x, self.param.alpha)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        graph.node("Elu", bottoms, tops, alpha=self.param.alpha)


@register("AbsVal")
class AbsVal(Neuron):
    """The absolute value ``|x|``; at 0 the gradient is 0.

    Bottom: any shape. Top: the same, at least 0.

    Raises:
        NetError: the layer works in place.

    Source: Caffe's AbsValLayer.

    Sample::

        layer {
          name: "abs"
          type: "AbsVal"
          bottom: "x"  # (2, 3, 8, 8)
          top: "abs"  # (2, 3, 8, 8)
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        if self.proto.top[0] in self.proto.bottom:
            self.fail("AbsVal Layer does not allow in-place computation", top=self.proto.top[0])

    def forward(self, x: Tensor) -> Tensor:
        return x.abs()

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        graph.node("Abs", bottoms, tops)


@register("BNLL")
class BNLL(Neuron):
    """The binomial normal log likelihood: ``log(1 + exp(x))``, a smooth rectifier.

    Bottom: any shape. Top: the same, above 0.

    Source: Caffe's BNLLLayer, which is exact everywhere: far from 0 it does not turn into the
    rectifier, as softplus does elsewhere.

    Sample::

        layer {
          name: "bnll"
          type: "BNLL"
          bottom: "ip1"  # (2, 10)
          top: "ip1"  # (2, 10)
        }
    """

    def forward(self, x: Tensor) -> Tensor:
        return -F.logsigmoid(-x)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        graph.node("Softplus", bottoms, tops)


@register("Clip", param="clip_param")
class Clip(Neuron):
    """Limit values to ``min``..``max``; the gradient is 1 there, bounds included, and 0 outside.

    Bottom: any shape. Top: the same, in [min, max].

    Raises:
        NetError: min or max is missing, or min exceeds max.

    Source: Caffe's ClipLayer. There a min above max makes all values min, and a layer without
    clip_param makes them 0; NaN, which stays NaN here, becomes min.

    Sample::

        layer {
          name: "clip"
          type: "Clip"
          bottom: "conv1"  # (2, 4, 8, 8)
          top: "conv1"  # (2, 4, 8, 8)
          clip_param { min: -1 max: 1 }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        missing = [f"clip_param.{n}" for n in ("min", "max") if not self.param.HasField(n)]
        if missing:
            self.fail(f"missing required fields: {', '.join(missing)}")
        if not self.param.min <= self.param.max:
            self.fail("min must not exceed max", min=self.param.min, max=self.param.max)

    def forward(self, x: Tensor) -> Tensor:
        # Not clamp: from torch 2.15 on it has no gradient at its bounds.
        inside = torch.where(x < self.param.min, self.param.min, x)
        return torch.where(x > self.param.max, self.param.max, inside)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        bounds = [graph.constant(getattr(self.param, name), name) for name in ("min", "max")]
        graph.node("Clip", [*bottoms, *bounds], tops)


@register("Swish", param="swish_param")
class Swish(Neuron):
    """The rectifier with a soft gate: ``x / (1 + exp(-beta * x))``.

    Bottom, top: any shape.

    Source: Ramachandran et al. 2017; Caffe's SwishLayer.

    Sample::

        layer {
          name: "swish1"
          type: "Swish"
          bottom: "conv1"  # (2, 4, 8, 8)
          top: "swish1"  # (2, 4, 8, 8)
          swish_param { beta: 1 }
        }
    """

    def forward(self, x: Tensor) -> Tensor:
        beta = self.param.beta
        return F.silu(x) if beta == 1 else x * torch.sigmoid(beta * x)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        scaled, gate = graph.temporary("scaled"), graph.temporary("gate")
        graph.node("Mul", [*bottoms, graph.constant(self.param.beta, "beta")], [scaled])
        graph.node("Sigmoid", [scaled], [gate])
        graph.node("Mul", [*bottoms, gate], tops)


class _Exceeds(torch.autograd.Function):
    """Where x exceeds the threshold; the backward pass fails."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Threshold) -> Tensor:
        ctx.layer = layer
        return (x > layer.param.threshold).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        ctx.layer.fail(
            "Not Implemented Yet: Threshold has no gradient, and a loss after it needs one for "
            "parameters before it. With propagate_down: false they get none"
        )


@register("Threshold", param="threshold_param")
class Threshold(Neuron):
    """Compare each value with the threshold t: 1 where ``x > t``, else 0, also where x equals t.

    Bottom: any shape. Top: the same, of 0 and 1. There is no gradient.

    Raises:
        NetError: in the backward pass, if a loss depends on the top, and the bottom on parameters
            that learn.

    Source: Caffe's ThresholdLayer, whose backward pass fails too.

    Sample::

        layer {
          name: "mask"
          type: "Threshold"
          bottom: "prob"  # (2, 1, 8, 8)
          top: "mask"  # (2, 1, 8, 8)
          threshold_param { threshold: 0.5 }
        }
    """

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Exceeds.apply(x, self)  # type: ignore[no-untyped-call]
        return y

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        exceeds = graph.temporary("exceeds")
        threshold = graph.constant(self.param.threshold, "threshold")
        graph.node("Greater", [*bottoms, threshold], [exceeds])
        graph.node("Cast", [exceeds], tops, to=_FLOAT)
