"""Crop: cuts its bottom to the size of another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..base import Layer, Shape, register

if TYPE_CHECKING:
    from ...export.graph import Graph


@register("Crop", param="crop_param", bottoms=2)
class Crop(Layer):
    """Cut the first bottom to the sizes of the second, from ``axis`` to the last axis.

    The cut begins at ``offset``: one number for all these axes, or one for each; 0 unless given.

    Bottoms: any shape; a reference, of which the sizes from ``axis`` on count alone, and which
    gets no gradient. Top: the first bottom's sizes before ``axis``, then the reference's.

    Raises:
        NetError: axis is out of range, the offsets are neither one nor as many as the axes, or the
            cut reaches past the first bottom.

    Source: Caffe's CropLayer.

    Sample::

        layer {
          name: "crop"
          type: "Crop"
          bottom: "upscore"  # (2, 4, 12, 12)
          bottom: "data"  # (2, 3, 8, 8)
          top: "score"  # (2, 4, 8, 8)
          crop_param { axis: 2 offset: 2 }
        }
    """

    constant_bottoms = (1,)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        rank, offset = len(bottom_shapes[0]), list(self.param.offset)
        self.first_axis = self.axis(self.param.axis, rank)
        axes = rank - self.first_axis
        if len(offset) > 1 and len(offset) != axes:
            self.fail(
                "number of offset values specified must be equal to the number of dimensions "
                f"following axis: {axes}, axis {self.first_axis} included",
                offset=offset,
            )
        self.offsets = offset if len(offset) > 1 else (offset or [0]) * axes

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        shape, reference = bottom_shapes
        start = self.first_axis
        if len(reference) < len(shape):
            self.fail(
                "the second bottom must have as many axes as the first",
                bottom=shape,
                reference=reference,
            )
        sizes = reference[start : len(shape)]
        for axis, (size, offset) in enumerate(zip(sizes, self.offsets, strict=True), start):
            if shape[axis] - offset < size:
                self.fail(
                    f"the crop for dimension {axis} is out of bounds with size {size} and offset "
                    f"{offset}",
                    bottom=shape,
                    reference=reference,
                )
        return [(*shape[:start], *sizes)]

    @property
    def per_sample(self) -> bool:
        return self.first_axis > 0

    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        for axis, offset in enumerate(self.offsets, self.first_axis):
            x = x.narrow(axis, offset, reference.shape[axis])
        return x

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        axes = list(range(self.first_axis, len(graph.shape(bottoms[0]))))
        sizes, ends = graph.temporary("sizes"), graph.temporary("ends")
        starts = graph.constant(self.offsets, "starts")
        graph.node("Shape", bottoms[1:], [sizes], start=axes[0], end=axes[-1] + 1)
        graph.node("Add", [sizes, starts], [ends])
        graph.node("Slice", [bottoms[0], starts, ends, graph.constant(axes, "axes")], tops)
