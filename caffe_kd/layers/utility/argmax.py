"""ArgMax: where the largest values are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..base import Layer, Shape, register

if TYPE_CHECKING:
    from ...export.graph import Graph

_FLOAT, _INT64_MIN = 1, -(2**63)  # as ONNX numbers them


@register("ArgMax", param="argmax_param")
class ArgMax(Layer):
    """Find the top_k largest values, best first, as indices, or also as values.

    Without ``axis`` over each sample as a whole; the top is (N, 1, top_k), with out_max_val
    (N, 2, top_k): indices, then values. More axes of size 1 follow until there are as many as the
    bottom's. With ``axis`` along it; the top has the bottom's shape, top_k there, and holds
    indices, with out_max_val values instead. Of equal values the one with the highest index comes
    first. There is no gradient.

    Bottom: (N, any axes...).

    Raises:
        NetError: axis is out of range, or top_k is below 1 or above the number of values.

    Source: Caffe's ArgMaxLayer.

    Sample::

        layer {
          name: "class"
          type: "ArgMax"
          bottom: "prob"  # (2, 10)
          top: "class"  # (2, 1)
          argmax_param { axis: 1 }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        if not bottom_shapes[0]:
            self.fail("the bottom must have at least 1 axis", bottom=bottom_shapes[0])
        self.has_axis = self.param.HasField("axis")
        rank = len(bottom_shapes[0])
        self.max_axis = self.axis(self.param.axis, rank) if self.has_axis else 1

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        (shape,), top_k = bottom_shapes, self.param.top_k
        if top_k < 1:
            self.fail("top k must not be less than 1", top_k=top_k)
        count = shape[self.max_axis] if self.has_axis else math.prod(shape[1:])
        if top_k > count:
            where = "axis" if self.has_axis else "flattened bottom blob per instance"
            self.fail(
                f"top_k must be less than or equal to the dimension of the {where}",
                top_k=top_k,
                dimension=count,
            )
        if self.has_axis:
            return [(*shape[: self.max_axis], top_k, *shape[self.max_axis + 1 :])]
        kinds = 2 if self.param.out_max_val else 1
        return [(shape[0], kinds, top_k, *(1,) * (len(shape) - 3))]

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        (shape,) = self.top_shapes([x.shape])
        if not self.has_axis:
            x = x.reshape(x.shape[0], -1)
        axis, top_k = self.max_axis, self.param.top_k
        # Backwards, since the first of equal values comes first in torch, and the last in Caffe.
        backwards = x.flip(axis)
        if top_k == 1:
            values, index = backwards.max(axis, keepdim=True)
        else:
            values, index = backwards.sort(stable=True, dim=axis, descending=True)
            values, index = values.narrow(axis, 0, top_k), index.narrow(axis, 0, top_k)
        found = (x.shape[axis] - 1 - index).to(x.dtype)
        if self.has_axis:
            return values if self.param.out_max_val else found
        return (torch.cat((found, values), 1) if self.param.out_max_val else found).reshape(shape)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        shape, axis = graph.shape(bottoms[0]), self.max_axis
        (x,) = bottoms
        count = shape[axis] if self.has_axis else math.prod(shape[1:])
        if not self.has_axis:
            x = graph.temporary("flat")
            graph.node("Reshape", [bottoms[0], graph.constant([0, count], "shape")], [x])
        backwards, values, index, turned, found = (
            graph.temporary(n) for n in ("backwards", "values", "index", "turned", "found")
        )
        bounds = [graph.constant([n], "bound") for n in (-1, _INT64_MIN, axis, -1)]
        graph.node("Slice", [x, *bounds], [backwards])
        top_k = graph.constant([self.param.top_k], "top_k")
        graph.node("TopK", [backwards, top_k], [values, index], axis=axis)
        graph.node("Sub", [graph.constant(count - 1, "last"), index], [turned])
        graph.node("Cast", [turned], [found], to=_FLOAT)
        if self.has_axis:
            graph.node("Identity", [values if self.param.out_max_val else found], tops)
            return
        if self.param.out_max_val:
            joined = graph.temporary("joined")
            graph.node("Concat", [found, values], [joined], axis=1)
            found = joined
        (top,) = self.top_shapes([shape])
        graph.node("Reshape", [found, graph.constant([0, *top[1:]], "shape")], tops)
