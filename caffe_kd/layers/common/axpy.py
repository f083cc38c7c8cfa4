"""Axpy: a times x plus y, a factor for each channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..base import Layer, Shape, register

if TYPE_CHECKING:
    from ...export.graph import Graph


@register("Axpy", bottoms=3, origin="SENet")
class Axpy(Layer):
    """Multiply the channels of one blob by factors and add another blob: ``a * x + y``.

    The end of a squeeze-and-excitation block: its Scale and the shortcut's Eltwise in one layer.

    Bottoms: a (N, C) or (N, C, 1, 1); x (N, C, any axes...); y of x's shape. Top: of x's shape.

    Raises:
        NetError: the bottoms' shapes do not fit together.

    Source: Hu et al. 2018, Squeeze-and-Excitation Networks; the AxpyLayer of their fork SENet.

    Sample::

        layer {
          name: "axpy1"
          type: "Axpy"
          bottom: "scales"  # (2, 4)
          bottom: "conv1"  # (2, 4, 8, 8)
          bottom: "shortcut"  # (2, 4, 8, 8)
          top: "out1"  # (2, 4, 8, 8)
        }
    """

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        a, x, y = bottom_shapes
        if len(x) < 2 or a[:2] != x[:2] or any(size != 1 for size in a[2:]):
            self.fail(
                "the first bottom must be (N, C) or (N, C, 1, 1), of the second bottom's N and C",
                bottom0=a,
                bottom1=x,
            )
        if x != y:
            self.fail("the second and third bottom must have the same shape", bottom1=x, bottom2=y)
        return [x]

    @property
    def per_sample(self) -> bool:
        return True

    def forward(self, a: Tensor, x: Tensor, y: Tensor) -> Tensor:
        factor = a.reshape(*a.shape[:2], *(1,) * (x.dim() - 2))
        return torch.addcmul(y, factor, x)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        a, x, y = bottoms
        rank = len(graph.shape(x))
        if len(graph.shape(a)) != rank:
            a, given = graph.temporary("factor"), a
            sizes = graph.constant([0, 0, *(1,) * (rank - 2)], "sizes")
            graph.node("Reshape", [given, sizes], [a])
        product = graph.temporary("product")
        graph.node("Mul", [a, x], [product])
        graph.node("Add", [product, y], tops)
