"""SoftmaxTemperature: the softmax of scores multiplied by a number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..base import Shape, register
from .softmax import Softmax

if TYPE_CHECKING:
    from ...export.graph import Graph


@register("SoftmaxTemperature", param="softmax_temperature_param", origin="caffe-wsl")
class SoftmaxTemperature(Softmax):
    """Turn scores into probabilities after multiplying them by ``temperature``.

    ``y = e^(t x) / sum of e^(t x)`` along ``axis`` (softmax_param, default 1), t being
    ``temperature`` (softmax_temperature_param, default 1). Above 1 it makes them sharper: in spite
    of its name t is the inverse of a temperature.

    With ``is_append`` a further class with the score 0 is added, and left out of the top:
    ``y = e^(t x) / (1 + sum of e^(t x))``. So all probabilities may be small.

    Bottom: scores of any shape. Top: of the same shape, each 0..1; the sum along the axis is 1,
    with is_append less.

    Raises:
        NetError: the temperature is not finite, or the axis out of range.

    Source: the layer of shenyunhang's caffe-wsl, which takes bottoms of 2 axes only.

    Sample::

        layer {
          name: "prob"
          type: "SoftmaxTemperature"
          bottom: "fc8"  # (2, 10)
          top: "prob"  # (2, 10)
          softmax_temperature_param { temperature: 2 }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        rank = len(bottom_shapes[0])
        self.class_axis = self.axis(self.proto.softmax_param.axis, rank)
        if not math.isfinite(self.param.temperature):
            self.fail("temperature must be finite", temperature=self.param.temperature)
        # F.pad starts from the last axis: one value after the last class.
        self.appended = (0, 0) * (rank - 1 - self.class_axis) + (0, 1)

    def forward(self, x: Tensor) -> Tensor:
        scores, classes = x * self.param.temperature, x.shape[self.class_axis]
        if self.param.is_append:
            scores = F.pad(scores, self.appended)
        return torch.softmax(scores, self.class_axis).narrow(self.class_axis, 0, classes)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        axis, shape = self.class_axis, graph.shape(bottoms[0])
        scores = graph.temporary("scores")
        factor = graph.constant(self.param.temperature, "temperature")
        graph.node("Mul", [*bottoms, factor], [scores])
        if not self.param.is_append:
            graph.node("Softmax", [scores], tops, axis=axis)
            return
        more, all_classes = graph.temporary("more"), graph.temporary("all")
        pads = np.zeros(2 * len(shape), np.int64)
        pads[len(shape) + axis] = 1
        graph.node("Pad", [scores, graph.constant(pads, "pads")], [more])
        graph.node("Softmax", [more], [all_classes], axis=axis)
        bounds = [graph.constant([n], "bound") for n in (0, -1, axis)]
        graph.node("Slice", [all_classes, *bounds], tops)
