"""Split: gives one blob several names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..base import Layer, Shape, register

if TYPE_CHECKING:
    from ...export.graph import Graph


@register("Split", tops=(1, None))
class Split(Layer):
    """Give the bottom to each top; the bottom's gradient is the sum of theirs.

    Bottom, tops: any shape, the same for all.

    Source: Caffe's SplitLayer. No net needs it here: several layers may use one blob.

    Sample::

        layer {
          name: "split"
          type: "Split"
          bottom: "x"  # (2, 10)
          top: "x1"  # (2, 10)
          top: "x2"  # (2, 10)
        }
    """

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return bottom_shapes * len(self.proto.top)

    @property
    def per_sample(self) -> bool:
        return True

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,) * len(self.proto.top)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        for top in tops:
            graph.alias(bottoms[0], top)
