"""BatchReindex: selects samples by index."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from torch import Tensor

from ..base import Shape, register
from ..shared.indices import IndexingLayer

if TYPE_CHECKING:
    from ...export.graph import Graph

_INT64 = 7  # as ONNX numbers it


@register("BatchReindex", bottoms=2)
class BatchReindex(IndexingLayer):
    """Select samples by index: ``y[i] = x[index[i]]``; one may be selected several times or never.

    Bottoms: x (N, any axes...); index (M), whole numbers in 0..N-1, fractions are truncated. Top:
    (M, x's other axes...). The index gets no gradient.

    Raises:
        NetError: the index does not have 1 axis, or in the forward pass a number is out of range.

    Source: Caffe's BatchReindexLayer.

    Sample::

        layer {
          name: "pick"
          type: "BatchReindex"
          bottom: "x"  # (4, 3, 8, 8)
          bottom: "index"  # (6)
          top: "picked"  # (6, 3, 8, 8)
        }
    """

    constant_bottoms = (1,)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        shape, index = bottom_shapes
        if len(index) != 1:
            self.fail("the second bottom, the index, must have 1 axis", index=index)
        if not shape:
            self.fail("the first bottom must have at least 1 axis", bottom=shape)
        return [(*index, *shape[1:])]

    @property
    def index_bottoms(self) -> dict[int, int]:
        return {1: 1}  # the first sample always exists

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        rows = self.read_indices(index, len(x))
        return x.index_select(0, rows)

    def refuse_index(self, index: int, count: int) -> NoReturn:
        fact = "negative" if index < 0 else "greater than batch size"
        self.fail(f"Index specified for reindex layer was {fact}", index=index, batch=count)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        whole = graph.temporary("index")
        graph.node("Cast", bottoms[1:], [whole], to=_INT64)
        graph.node("Gather", [bottoms[0], whole], tops, axis=0)
