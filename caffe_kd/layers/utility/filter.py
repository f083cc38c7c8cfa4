"""Filter: passes on the samples that a selector selects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..base import Layer, Shape, register

if TYPE_CHECKING:
    from ...export.graph import Graph


@register("Filter", bottoms=(2, None), tops=(1, None))
class Filter(Layer):
    """Pass on the samples whose selector isn't 0, in their order; the others' gradient is 0.

    Bottoms: blobs (N, any axes...), then the selector (N), or (N, 1, 1, ...). Tops: one for each
    bottom but the selector, which gets no gradient. Their first size is the number of samples
    selected, which may differ from pass to pass and be 0; before the first pass it is N.

    Raises:
        NetError: the tops aren't one fewer than the bottoms, the bottoms differ in their first
            size, or the selector has another size that isn't 1.

    Source: Caffe's FilterLayer.

    Sample::

        layer {
          name: "filter"
          type: "Filter"
          bottom: "fc7"  # (4, 10)
          bottom: "selector"  # (4)
          top: "selected"  # (4, 10)
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        tops = len(self.proto.top)
        if tops != len(bottom_shapes) - 1:
            self.fail(
                "it makes one top for each bottom but the last, the selector",
                bottoms=len(bottom_shapes),
                tops=tops,
            )

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        *shapes, selector = bottom_shapes
        if any(size != 1 for size in selector[1:]):
            self.fail(
                "Selector blob dimensions must be singletons (1), except the first",
                selector=selector,
            )
        for shape in shapes:
            if not shape or shape[:1] != selector[:1]:
                self.fail(
                    "Each bottom should have the same 0th dimension as the selector blob",
                    bottom=shape,
                    selector=selector,
                )
        return shapes

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        *blobs, selector = bottoms
        selected = selector.detach().flatten().nonzero().squeeze(1)
        return tuple(blob.index_select(0, selected) for blob in blobs)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        *blobs, selector = bottoms
        names = ("flat", "unselected", "selected")
        flat, unselected, selected = (graph.temporary(name) for name in names)
        graph.node("Reshape", [selector, graph.constant([-1], "shape")], [flat])
        graph.node("Equal", [flat, graph.constant(0.0, "zero")], [unselected])
        graph.node("Not", [unselected], [selected])
        for blob, top in zip(blobs, tops, strict=True):
            graph.node("Compress", [blob, selected], [top], axis=0)
