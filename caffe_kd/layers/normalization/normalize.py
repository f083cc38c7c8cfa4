"""Normalize: vectors brought to one length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..base import Shape, register
from ..common.bias import aligned, aligned_onnx
from ..shared.channels import ChannelLayer

if TYPE_CHECKING:
    from ...export.graph import Graph


@register("Normalize", param="norm_param", origin="SSD")
class Normalize(ChannelLayer):
    """Divide values by the length of their vector, and multiply by a learned factor.

    ``y = scale x / sqrt(sum of x^2 + eps)``, the sum being over all of a sample, or with
    ``across_spatial: false`` over the channels of each position.

    Bottom, top: (N, C, any axes...).
    Blobs: scale, a scalar, or (C) with ``channel_shared: false``; 1 unless filled otherwise.

    Raises:
        NetError: the bottom has fewer than 2 axes.

    Source: NormalizeLayer of Liu's fork for SSD (Liu et al. 2015, ParseNet). The gradient of a
    factor that is 0 is not a number there, and is its derivative here.

    Sample::

        layer {
          name: "conv4_norm"
          type: "Normalize"
          bottom: "conv4"  # (2, 8, 4, 4)
          top: "conv4_norm"  # (2, 8, 4, 4)
          norm_param { across_spatial: false channel_shared: false scale_filler { value: 20 } }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.add_channel_blob(bottom_shapes[0], "scale_filler", 1.0)

    def _summed(self, rank: int) -> list[int]:
        return list(range(1, rank)) if self.param.across_spatial else [1]

    def forward(self, x: Tensor) -> Tensor:
        squares = x.square().sum(self._summed(x.dim()), keepdim=True)
        return x / (squares + self.param.eps).sqrt() * aligned(self.blobs[0], 1, x.dim())

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        rank = len(graph.shape(bottoms[0]))
        squares, raised, length, unit = (
            graph.temporary(n) for n in ("squares", "raised", "length", "unit")
        )
        graph.node("ReduceSumSquare", bottoms, [squares], axes=self._summed(rank))
        graph.node("Add", [squares, graph.constant(float(self.param.eps), "eps")], [raised])
        graph.node("Sqrt", [raised], [length])
        graph.node("Div", [bottoms[0], length], [unit])
        scale = graph.blob(self, 0)
        if not self.param.channel_shared:
            scale = aligned_onnx(graph, scale, 1, 1, rank)
        graph.node("Mul", [unit, scale], tops)
