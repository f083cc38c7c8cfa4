"""SoftmaxWithTemperature: scores to softened probabilities."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from ..losses.soft_targets import softmax_with_temperature
from .base import Layer, Shape, register

if TYPE_CHECKING:
    from ..export.graph import Graph


@register("SoftmaxWithTemperature", param="softmax_with_temperature_param", origin="caffe_kd")
class SoftmaxWithTemperature(Layer):
    """Turn scores into probabilities that are the more even the higher the temperature.

    ``y = softmax(x / T)`` along ``axis`` (default 1), T being ``temperature`` (default 1). At T = 1
    this is Softmax; near 0 the greatest score takes all; far above the scores' size all classes
    come out alike. The gradient is that of just this: it carries the factor 1 / T, and no T^2.

    Bottom: scores of any shape. Top: of the same shape, each 0..1, with sum 1 along the axis.

    Raises:
        NetError: the temperature is not above 0, or the axis out of range.

    Source: https://arxiv.org/abs/1503.02531, equation 1. Original Caffe has no such layer.
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.class_axis = self.axis(self.param.axis, len(bottom_shapes[0]))
        self.temperature = self.param.temperature
        if not 0 < self.temperature < math.inf:
            self.fail("temperature must be above 0", temperature=self.temperature)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return bottom_shapes

    @property
    def per_record(self) -> bool:
        return self.class_axis > 0

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return softmax_with_temperature(x, self.temperature, self.class_axis)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        cooled = graph.temporary("cooled")
        graph.node("Div", [bottoms[0], graph.constant(self.temperature, "temperature")], [cooled])
        graph.node("Softmax", [cooled], tops, axis=self.class_axis)
