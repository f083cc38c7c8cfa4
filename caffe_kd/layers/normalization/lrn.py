"""LRN: local response normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from ...proto import caffe_pb2 as pb
from ..base import Layer, Shape, register

if TYPE_CHECKING:
    from ...export.graph import Graph


@register("LRN", param="lrn_param")
class LRN(Layer):
    """Divide each value by a power of the mean square around it.

    ACROSS_CHANNELS: ``y = x / (k + alpha / n * sum of x^2 over n neighbouring channels) ^ beta``.
    WITHIN_CHANNEL: ``y = x / (1 + alpha * mean of x^2 over n x n positions) ^ beta``; k is not
    used. What lies outside counts as 0.

    Bottom, top: (N, C, H, W).

    Raises:
        NetError: the bottom does not have 4 axes, or n (local_size) is even.

    Source: Krizhevsky et al. 2012; Caffe's LRNLayer.

    Sample::

        layer {
          name: "norm1"
          type: "LRN"
          bottom: "pool1"  # (2, 8, 4, 4)
          top: "norm1"  # (2, 8, 4, 4)
          lrn_param { local_size: 5 alpha: 1e-4 beta: 0.75 }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param
        if param.local_size % 2 == 0:
            self.fail("LRN only supports odd values for local_size", local_size=param.local_size)
        self.within = param.norm_region == pb.LRNParameter.WITHIN_CHANNEL

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        (shape,) = bottom_shapes
        self.check_plane(shape)
        size = self.param.local_size
        padded = shape[1] + size, shape[2] + size, shape[3] + size
        self.check_shape((shape[0], *padded), "the padded bottom")
        return bottom_shapes

    @property
    def per_sample(self) -> bool:
        return True

    def forward(self, x: Tensor) -> Tensor:
        param = self.param
        if self.within:
            mean = F.avg_pool2d(x * x, param.local_size, 1, param.local_size // 2)
            return x * (mean * param.alpha + 1).pow(-param.beta)
        total = self._sum_of_neighbours(x * x)
        return x * (total * (param.alpha / param.local_size) + param.k).pow(-param.beta)

    def _sum_of_neighbours(self, x: Tensor) -> Tensor:
        """Sum over channels; adding shifted slices takes a third of the time of pooling."""
        reach, channels = self.param.local_size // 2, x.shape[1]
        reach = min(reach, channels - 1)
        padded = F.pad(x, (0, 0, 0, 0, reach, reach))
        total = x
        for shift in range(2 * reach + 1):
            if shift != reach:
                total = total + padded[:, shift : shift + channels]
        return total

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        param = self.param
        if not self.within:
            size, alpha, beta = param.local_size, param.alpha, param.beta
            graph.node("LRN", bottoms, tops, size=size, alpha=alpha, beta=beta, bias=param.k)
            return
        steps = [graph.temporary(f"within_{i}") for i in range(5)]
        graph.node("Mul", [bottoms[0], bottoms[0]], steps[:1])
        graph.node(
            "AveragePool",
            steps[:1],
            steps[1:2],
            kernel_shape=[param.local_size] * 2,
            pads=[param.local_size // 2] * 4,
            count_include_pad=1,
        )
        graph.node("Mul", [steps[1], graph.constant(param.alpha, "alpha")], steps[2:3])
        graph.node("Add", [steps[2], graph.constant(1.0, "one")], steps[3:4])
        graph.node("Pow", [steps[3], graph.constant(-param.beta, "beta")], steps[4:5])
        graph.node("Mul", [bottoms[0], steps[4]], tops)
