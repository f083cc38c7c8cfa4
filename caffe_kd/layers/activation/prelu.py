"""PReLU: the rectifier whose slopes are learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from ..base import Shape, register
from ..common.bias import aligned_onnx
from ..shared.channels import ChannelLayer

if TYPE_CHECKING:
    from ...export.graph import Graph


@register("PReLU", param="prelu_param")
class PReLU(ChannelLayer):
    """Rectify with a learned slope: ``max(x, 0) + a min(x, 0)``; at 0 the gradient is the slope.

    Bottom, top: (N, C, any axes...).
    Blobs: slope a, (C), or a scalar with ``channel_shared``; 0.25 unless filled otherwise.

    Raises:
        NetError: the bottom has fewer than 2 axes.

    Source: He et al. 2015; Caffe's PReLULayer.

    Sample::

        layer {
          name: "prelu1"
          type: "PReLU"
          bottom: "conv1"  # (2, 4, 8, 8)
          top: "conv1"  # (2, 4, 8, 8)
          param { decay_mult: 0 }
          prelu_param { filler { value: 0.1 } }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.add_channel_blob(bottom_shapes[0], "filler", 0.25)

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.blobs[0])

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        slope, rank = graph.blob(self, 0), len(graph.shape(bottoms[0]))
        if not self.param.channel_shared:
            slope = aligned_onnx(graph, slope, 1, 1, rank)
        graph.node("PRelu", [bottoms[0], slope], tops)
