"""PReLU: the rectifier whose slopes are learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from ..proto import caffe_pb2 as pb
from .base import Layer, Shape, register
from .bias import aligned_onnx

if TYPE_CHECKING:
    from ..export.graph import Graph


@register("PReLU", param="prelu_param")
class PReLU(Layer):
    """Rectify with a learned slope: ``max(x, 0) + a min(x, 0)``; at 0 the gradient is the slope.

    Bottom, top: (N, C, any axes...).
    Blobs: slope a, (C), or a scalar with ``channel_shared``; 0.25 unless filled otherwise.

    Raises:
        NetError: the bottom has fewer than 2 axes.

    Source: He et al. 2015; Caffe's PReLULayer.
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        (shape,) = bottom_shapes
        if len(shape) < 2:
            self.fail("Number of axes of bottom blob must be >=2", bottom=shape)
        filler = pb.FillerParameter(type="constant", value=0.25)
        if self.param.HasField("filler"):
            filler = self.param.filler
        self.add_blob(() if self.param.channel_shared else (shape[1],), filler)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return bottom_shapes

    @property
    def per_record(self) -> bool:
        return True

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return F.prelu(x, self.blobs[0])

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        slope, rank = graph.blob(self, 0), len(graph.shape(bottoms[0]))
        if not self.param.channel_shared:
            slope = aligned_onnx(graph, slope, 1, 1, rank)
        graph.node("PRelu", [bottoms[0], slope], tops)
