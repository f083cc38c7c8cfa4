"""Softmax: scores to probabilities."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from ..base import Layer, Shape, register

if TYPE_CHECKING:
    from ...export.graph import Graph


def divisor(layer: Layer) -> float:
    """Return the divisor of scores in softmax_param: its ``temperature``, or 1 if that is 0.

    Raises:
        NetError: the temperature is below 0.
    """
    temperature: float = layer.proto.softmax_param.temperature
    if not 0 <= temperature < math.inf:
        layer.fail("temperature must be above 0, or 0 for none", temperature=temperature)
    return temperature or 1.0


@register("Softmax", param="softmax_param")
class Softmax(Layer):
    """Turn scores into probabilities along an axis.

    ``y = e^x / sum of e^x`` along ``axis`` (softmax_param, default 1).

    Bottom: scores of any shape. Top: of the same shape, each 0..1, with sum 1 along the axis.

    Raises:
        NetError: the axis is out of range, or the temperature below 0.

    Source: Caffe's SoftmaxLayer. ``temperature`` is from two forks, such as xieguotian's: x is
    divided by it first, gradient included; 0, the default, is off.

    Sample::

        layer {
          name: "prob"
          type: "Softmax"
          bottom: "fc8"  # (2, 10)
          top: "prob"  # (2, 10)
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.class_axis = self.axis(self.param.axis, len(bottom_shapes[0]))
        self.temperature = divisor(self)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return bottom_shapes

    @property
    def per_sample(self) -> bool:
        return self.class_axis > 0

    def forward(self, x: Tensor) -> Tensor:
        if self.temperature != 1:
            x = x / self.temperature
        return F.softmax(x, self.class_axis)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        (scores,) = bottoms
        if self.temperature != 1:
            scores, given = graph.temporary("cooled"), scores
            graph.node("Div", [given, graph.constant(self.temperature, "temperature")], [scores])
        graph.node("Softmax", [scores], tops, axis=self.class_axis)
