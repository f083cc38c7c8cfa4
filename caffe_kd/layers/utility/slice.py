"""Slice: cuts its bottom along an axis."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..base import Layer, Shape, register
from .concat import axis_or_dim

if TYPE_CHECKING:
    from ...export.graph import Graph


@register("Slice", param="slice_param", tops=(1, None))
class Slice(Layer):
    """Cut the bottom along ``axis`` (or the older slice_dim), at slice_point or into equal pieces.

    Bottom: any shape. Tops: the pieces in order.

    Raises:
        NetError: axis and slice_dim are both given, the axis is out of range, the slice points are
            not one fewer than the tops or do not ascend within the axis, or without them the
            size is not a multiple of the number of tops.

    Source: Caffe's SliceLayer.

    Sample::

        layer {
          name: "slice"
          type: "Slice"
          bottom: "pair"  # (2, 6, 8, 8)
          top: "left"  # (2, 2, 8, 8)
          top: "right"  # (2, 4, 8, 8)
          slice_param { axis: 1 slice_point: 2 }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.slice_axis = axis_or_dim(self, "slice_dim", len(bottom_shapes[0]))

    def _sizes(self, size: int) -> list[int]:
        points, tops = list(self.param.slice_point), len(self.proto.top)
        if not points:
            if size % tops:
                self.fail(
                    f"Number of top blobs ({tops}) should evenly divide input slice axis ({size})"
                )
            return [size // tops] * tops
        if len(points) != tops - 1:
            self.fail(
                "slice_point must be given once fewer than tops", slice_point=points, tops=tops
            )
        sizes = [end - start for start, end in pairwise([0, *points, size])]
        if min(sizes) < 1:
            self.fail(
                f"slice points must ascend between 0 and the size of axis {self.slice_axis}",
                slice_point=points,
                size=size,
            )
        return sizes

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        (shape,), at = bottom_shapes, self.slice_axis
        return [(*shape[:at], size, *shape[at + 1 :]) for size in self._sizes(shape[at])]

    @property
    def per_sample(self) -> bool:
        return self.slice_axis > 0

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return torch.split(x, self._sizes(x.shape[self.slice_axis]), self.slice_axis)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        sizes = self._sizes(graph.shape(bottoms[0])[self.slice_axis])
        graph.node("Split", [*bottoms, graph.constant(sizes, "sizes")], tops, axis=self.slice_axis)
