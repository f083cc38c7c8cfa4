"""Permute: the axes in another order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..base import Layer, Shape, register

if TYPE_CHECKING:
    from ...export.graph import Graph


@register("Permute", param="permute_param", origin="SSD")
class Permute(Layer):
    """Reorder the axes: axis i of the top is axis ``order[i]`` of the bottom.

    Axes that ``order`` does not name follow those it names, in their own order.

    Bottom: any shape. Top: the same sizes in the other order.

    Raises:
        NetError: order names an axis twice, or one that the bottom does not have.

    Source: PermuteLayer of Liu's fork for SSD.

    Sample::

        layer {
          name: "channels_last"
          type: "Permute"
          bottom: "conv4"  # (2, 8, 4, 6)
          top: "channels_last"  # (2, 4, 6, 8)
          permute_param { order: 0 order: 2 order: 3 order: 1 }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        order, rank = list(self.param.order), len(bottom_shapes[0])
        if any(axis >= rank for axis in order):
            self.fail("order should be less than the input dimension", order=order, axes=rank)
        if len(set(order)) < len(order):
            self.fail("there are duplicate orders", order=order)
        self.order = order + [axis for axis in range(rank) if axis not in order]

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        (shape,) = bottom_shapes
        return [tuple(shape[axis] for axis in self.order)]

    @property
    def per_sample(self) -> bool:
        return self.order[:1] == [0]

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        graph.node("Transpose", bottoms, tops, perm=self.order)
