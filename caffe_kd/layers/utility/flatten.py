"""Flatten: joins several axes into one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from ..base import Layer, Shape, register

if TYPE_CHECKING:
    from ...export.graph import Graph


@register("Flatten", param="flatten_param")
class Flatten(Layer):
    """Join the bottom's axes from ``axis`` to ``end_axis``, inclusive, into one.

    Bottom: any shape. Top: the same values in the same order.

    Raises:
        NetError: an axis is out of range, or they are in the wrong order.

    Source: Caffe's FlattenLayer.

    Sample::

        layer {
          name: "flat"
          type: "Flatten"
          bottom: "pool5"  # (2, 4, 3, 3)
          top: "flat"  # (2, 36)
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        rank = len(bottom_shapes[0])
        self.start = self.axis(self.param.axis, rank)
        self.end = self.axis(self.param.end_axis, rank, "end_axis")
        if self.start > self.end:
            self.fail("axis must not be after end_axis", axis=self.start, end_axis=self.end)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        (shape,) = bottom_shapes
        run = math.prod(shape[self.start : self.end + 1])
        return [(*shape[: self.start], run, *shape[self.end + 1 :])]

    @property
    def per_sample(self) -> bool:
        return bool(self.param.axis > 0)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(self.start, self.end)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        (shape,) = self.top_shapes([graph.shape(bottoms[0])])
        # 0 copies the batch size; if it is flattened too, -1 lets it vary.
        target = graph.constant([0 if self.start else -1, *shape[1:]], "shape")
        graph.node("Reshape", [bottoms[0], target], tops)
