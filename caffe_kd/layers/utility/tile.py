"""Tile: repeats its bottom along an axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..base import Layer, Shape, register

if TYPE_CHECKING:
    from ...export.graph import Graph


@register("Tile", param="tile_param")
class Tile(Layer):
    """Put ``tiles`` copies of the bottom one after another along ``axis``.

    Bottom: any shape. Top: the same, ``tiles`` times as long along the axis.

    Raises:
        NetError: the axis is out of range, or tiles is missing or below 1.

    Source: Caffe's TileLayer.

    Sample::

        layer {
          name: "tile"
          type: "Tile"
          bottom: "x"  # (2, 10, 1)
          top: "tiled"  # (2, 10, 5)
          tile_param { axis: 2 tiles: 5 }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.tile_axis = self.axis(self.param.axis, len(bottom_shapes[0]))
        if not self.param.HasField("tiles"):
            self.fail("Number of tiles must be specified")
        if self.param.tiles < 1:
            self.fail("Number of tiles must be positive", tiles=self.param.tiles)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        (shape,), at = bottom_shapes, self.tile_axis
        return [(*shape[:at], shape[at] * self.param.tiles, *shape[at + 1 :])]

    @property
    def per_sample(self) -> bool:
        return self.tile_axis > 0

    def _repeats(self, rank: int) -> list[int]:
        return [self.param.tiles if axis == self.tile_axis else 1 for axis in range(rank)]

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat(self._repeats(x.dim()))

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        repeats = self._repeats(len(graph.shape(bottoms[0])))
        graph.node("Tile", [*bottoms, graph.constant(repeats, "repeats")], tops)
