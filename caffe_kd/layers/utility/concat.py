"""Concat: joins bottoms along an axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..base import Layer, Shape, register

if TYPE_CHECKING:
    from ...export.graph import Graph


def axis_or_dim(layer: Layer, old_name: str, rank: int) -> int:
    """Read ``axis``, or the older field, which must not be negative.

    Raises:
        NetError: both are given, or it is out of range.
    """
    if not layer.param.HasField(old_name):
        return layer.axis(layer.param.axis, rank)
    if layer.param.HasField("axis"):
        layer.fail(f"Either axis or {old_name} should be specified; not both")
    return layer.axis(getattr(layer.param, old_name), rank, old_name)


@register("Concat", param="concat_param", bottoms=(1, None))
class Concat(Layer):
    """Join the bottoms along ``axis`` (or the older concat_dim).

    Bottoms: any shapes that differ at most along the axis. Top: their sizes there added up.

    Raises:
        NetError: axis and concat_dim are both given, the axis is out of range, or the bottoms'
            shapes differ elsewhere.

    Source: Caffe's ConcatLayer.

    Sample::

        layer {
          name: "concat"
          type: "Concat"
          bottom: "a"  # (2, 3, 8, 8)
          bottom: "b"  # (2, 5, 8, 8)
          top: "concat"  # (2, 8, 8, 8)
          concat_param { axis: 1 }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.concat_axis = axis_or_dim(self, "concat_dim", len(bottom_shapes[0]))

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        first, at = bottom_shapes[0], self.concat_axis
        for shape in bottom_shapes:
            if len(shape) != len(first):
                self.fail("All inputs must have the same #axes", bottoms=bottom_shapes)
            if shape[:at] != first[:at] or shape[at + 1 :] != first[at + 1 :]:
                self.fail(
                    "All inputs must have the same shape, except at concat_axis",
                    bottoms=bottom_shapes,
                    concat_axis=at,
                )
        return [(*first[:at], sum(s[at] for s in bottom_shapes), *first[at + 1 :])]

    @property
    def per_sample(self) -> bool:
        return self.concat_axis > 0

    def forward(self, *bottoms: Tensor) -> Tensor:
        return torch.cat(bottoms, self.concat_axis) if len(bottoms) > 1 else bottoms[0]

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        graph.node("Concat", bottoms, tops, axis=self.concat_axis)
