"""ReLU6: the rectifier that stops at 6."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from ..base import Shape, register
from .neurons import Neuron

if TYPE_CHECKING:
    from ...export.graph import Graph


@register("ReLU6", param="relu6_param", origin="several forks")
class ReLU6(Neuron):
    """The rectifier limited to 6: ``min(max(x, 0), 6)``; at 0 and 6 the gradient is 0.

    Bottom: any shape. Top: the same, in 0..6.

    Raises:
        NetError: negative_slope is set, which the forks' layer reads and never uses.

    Source: Howard et al. 2017 (MobileNets); the ReLU6 layer of forks.

    Sample::

        layer {
          name: "relu1"
          type: "ReLU6"
          bottom: "conv1"  # (2, 4, 8, 8)
          top: "conv1"  # (2, 4, 8, 8)
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        if self.param.negative_slope:
            self.fail(
                "ReLU6 has no slope below 0: leave negative_slope out",
                negative_slope=self.param.negative_slope,
            )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(x)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        bounds = [graph.constant(bound, "bound") for bound in (0.0, 6.0)]
        graph.node("Clip", [*bottoms, *bounds], tops)
