"""SoftmaxWithTemperature: scores to softened probabilities."""

from __future__ import annotations

import math

from ..base import Shape, register
from ..utility.softmax import Softmax


@register("SoftmaxWithTemperature", param="softmax_with_temperature_param", origin="caffe_kd")
class SoftmaxWithTemperature(Softmax):
    """Turn scores into probabilities, the more uniform the higher the temperature.

    ``y = softmax(x / T)`` along ``axis`` (default 1), T being ``temperature`` (default 1). At T = 1
    this is Softmax; near 0 the largest score gets all; far above the scores' size all classes
    become equal. The gradient is that of this formula: it has the factor 1 / T, and no T^2.

    Bottom: scores of any shape. Top: of the same shape, each 0..1, with sum 1 along the axis.

    Raises:
        NetError: the temperature is not above 0, or the axis out of range.

    Source: https://arxiv.org/abs/1503.02531, equation 1. BVLC Caffe has no such layer.

    Sample::

        layer {
          name: "soft"
          type: "SoftmaxWithTemperature"
          bottom: "fc8"  # (2, 10)
          top: "soft"  # (2, 10)
          softmax_with_temperature_param { temperature: 4 }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.class_axis = self.axis(self.param.axis, len(bottom_shapes[0]))
        self.temperature = self.param.temperature
        if not 0 < self.temperature < math.inf:
            self.fail("temperature must be above 0", temperature=self.temperature)
