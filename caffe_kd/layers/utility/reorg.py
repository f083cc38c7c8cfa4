"""Reorg: squares of a plane turned into channels, in darknet's order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..base import Layer, Shape, register

if TYPE_CHECKING:
    from ...export.graph import Graph


@register("Reorg", param="reorg_param", origin="YOLOv2")
class Reorg(Layer):
    """Turn squares of ``stride`` x ``stride`` positions into channels, or with ``reverse`` back.

    With s = stride and q = C / s^2. Reversed, it is depth to space: position
    ``(h s + i, w s + j)`` of top channel c is (h, w) of bottom channel ``(i s + j) q + c``.
    Unreversed it is *not* space to depth, but darknet's order: the values of a sample are read as q
    planes of (H s, W s), taken apart by the inverse of that rule into C planes of (H, W), and the
    row of values that gives is read as ``C s^2`` planes of (H / s, W / s). So neither direction
    undoes the other.

    Bottom: (N, C, H, W). Top: (N, C s^2, H / s, W / s), reversed (N, C / s^2, H s, W s).

    Raises:
        NetError: the bottom does not have 4 axes, stride is missing or 0, C is not a multiple
            of s^2, or H or W is not a multiple of s where they are divided.

    Source: Redmon and Farhadi 2017, darknet's reorg layer; ReorgLayer of gklz1982's caffe-yolov2
    and of other forks that call darknet's function with the bottom's sizes. (choasup's
    caffe-yolo9000 applies the inverse permutation.) Their gradient is not the
    derivative: they read a blob that is never written. Here it is the derivative.

    Sample::

        layer {
          name: "reorg"
          type: "Reorg"
          bottom: "conv13"  # (2, 4, 8, 8)
          top: "reorg"  # (2, 16, 4, 4)
          reorg_param { stride: 2 }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        if not self.param.stride:
            self.fail("Reorg Layer needs stride param, at least 1", stride=self.param.stride)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        (shape,), s = bottom_shapes, self.param.stride
        self.check_plane(shape)
        n, channels, height, width = shape
        if channels % (s * s):
            self.fail("channels must be a multiple of stride^2", channels=channels, stride=s)
        if self.param.reverse:
            return [(n, channels // (s * s), height * s, width * s)]
        if height % s or width % s:
            self.fail("height and width must be multiples of stride", bottom=shape, stride=s)
        return [(n, channels * s * s, height // s, width // s)]

    @property
    def per_sample(self) -> bool:
        return True

    def _plan(self, shape: Shape) -> tuple[list[int], list[int]]:
        """Return the shape that a sample's values are read in, and the order of its axes then."""
        _, channels, height, width = shape
        s = self.param.stride
        planes = channels // (s * s)
        if self.param.reverse:
            return [s, s, planes, height, width], [0, 3, 4, 1, 5, 2]
        return [planes, height, s, width, s], [0, 3, 5, 1, 2, 4]

    def forward(self, x: Tensor) -> Tensor:
        read_as, order = self._plan(tuple(x.shape))
        (top,) = self.top_shapes([tuple(x.shape)])
        return x.reshape(x.shape[0], *read_as).permute(order).reshape(top)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        shape = graph.shape(bottoms[0])
        read_as, order = self._plan(shape)
        (top,) = self.top_shapes([shape])
        squares, moved = graph.temporary("squares"), graph.temporary("moved")
        graph.node("Reshape", [bottoms[0], graph.constant([0, *read_as], "read_as")], [squares])
        graph.node("Transpose", [squares], [moved], perm=order)
        graph.node("Reshape", [moved, graph.constant([0, *top[1:]], "shape")], tops)
