"""Softmax: scores to probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from .base import Layer, Shape, register

if TYPE_CHECKING:
    from ..export.graph import Graph


@register("Softmax", param="softmax_param")
class Softmax(Layer):
    """Turn scores into probabilities along an axis.

    ``y = e^x / sum of e^x`` along ``axis`` (softmax_param, default 1).

    Bottom: scores of any shape. Top: of the same shape, each 0..1, with sum 1 along the axis.

    Raises:
        NetError: the axis is out of range.

    Source: Caffe's SoftmaxLayer.
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.class_axis = self.axis(self.param.axis, len(bottom_shapes[0]))

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return bottom_shapes

    @property
    def per_record(self) -> bool:
        return self.class_axis > 0

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return F.softmax(x, self.class_axis)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        graph.node("Softmax", bottoms, tops, axis=self.class_axis)
