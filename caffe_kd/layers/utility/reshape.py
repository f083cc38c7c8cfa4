"""Reshape: the same values in another shape."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from ..base import Layer, Shape, register

if TYPE_CHECKING:
    from ...export.graph import Graph


@register("Reshape", param="reshape_param")
class Reshape(Layer):
    """Replace the axes that ``axis`` and ``num_axes`` select by those of ``shape``.

    In ``shape`` 0 copies the bottom's size of that axis, and one -1 takes what is left.

    Bottom: any shape. Top: the same values in the same order.

    Raises:
        NetError: the axes are out of range, ``shape`` has several -1 or a 0 with nothing to copy,
            the counts differ, or the layer works in place.

    Source: Caffe's ReshapeLayer.

    Sample::

        layer {
          name: "reshape"
          type: "Reshape"
          bottom: "fc8"  # (2, 12)
          top: "reshaped"  # (2, 3, 4)
          reshape_param { shape { dim: 0 dim: 3 dim: -1 } }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        if self.proto.top[0] in self.proto.bottom:
            self.fail("Reshape Layer does not allow in-place computation", top=self.proto.top[0])
        self.dims = list(self.param.shape.dim)
        if self.dims.count(-1) > 1:
            self.fail(
                "new shape contains multiple -1 dims; at most a single (1) value of -1 may be "
                "specified",
                dim=self.dims,
            )
        if any(dim < -1 for dim in self.dims):
            self.fail("each dim must be positive, 0 or -1", dim=self.dims)

    def _replaced(self, rank: int) -> tuple[int, int]:
        """Return the first and the end of the axes that are replaced."""
        axis, count = self.param.axis, self.param.num_axes
        start = axis if axis >= 0 else rank + axis + 1
        if not 0 <= start <= rank:
            self.fail(f"axis {axis} out of range for {rank}-D input blob")
        if count < -1:
            self.fail("num_axes must be >= 0, or -1 for all", num_axes=count)
        end = rank if count == -1 else start + count
        if end > rank:
            self.fail("end_axis = axis + num_axes is out of range", axis=axis, num_axes=count)
        return start, end

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        (shape,) = bottom_shapes
        start, end = self._replaced(len(shape))
        dims = list(self.dims)
        for index, dim in enumerate(dims):
            if dim == 0:
                if start + index >= len(shape):
                    self.fail(
                        "new shape contains a 0, but there was no corresponding bottom axis to "
                        "copy",
                        dim=dims,
                        bottom=shape,
                    )
                dims[index] = shape[start + index]
        top = [*shape[:start], *dims, *shape[end:]]
        count = math.prod(shape)
        if -1 in top:
            known = -math.prod(top)
            if count % known:
                self.fail(
                    f"bottom count ({count}) must be divisible by the product of the specified "
                    f"dimensions ({known})"
                )
            top[top.index(-1)] = count // known
        elif math.prod(top) != count:
            self.fail("output count must match input count", top=tuple(top), bottom=shape)
        return [tuple(top)]

    @property
    def per_sample(self) -> bool:
        return bool(self.param.axis > 0 or list(self.param.shape.dim[:1]) == [0])

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(self.top_shapes([x.shape])[0])

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        shape = graph.shape(bottoms[0])
        (top,) = self.top_shapes([shape])
        # 0 copies the batch size; if other axes join it, -1 lets it vary.
        start, _ = self._replaced(len(shape))
        keeps_batch = start > 0 or (self.dims[0] != -1 and top[0] == shape[0])
        target = graph.constant([0 if keeps_batch else -1, *top[1:]], "shape")
        graph.node("Reshape", [bottoms[0], target], tops)
