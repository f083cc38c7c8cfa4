"""Scale: multiplies by a smaller operand, with an optional offset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ...proto import caffe_pb2 as pb
from ..base import Layer, Shape, register
from .bias import aligned, aligned_onnx, check_operand, first_axis, learned_shape

if TYPE_CHECKING:
    from ...export.graph import Graph


@register("Scale", param="scale_param", bottoms=(1, 2))
class Scale(Layer):
    """Multiply by a smaller operand, repeated over the axes it lacks: ``y = s x + b``.

    Bottom, top: any shape. Second bottom s: the sizes of the first from ``axis`` on. Without it
    s is learned.
    Blobs: s, of num_axes axes of the bottom from ``axis`` on, ones unless filled otherwise; with
    bias_term b, of s's shape, zeros unless filled otherwise.

    Raises:
        NetError: axis or num_axes reach past the bottom, or the second bottom's sizes differ.

    Source: Caffe's ScaleLayer.

    Sample::

        layer {
          name: "scale1"
          type: "Scale"
          bottom: "bn1"  # (2, 4, 8, 8)
          top: "bn1"  # (2, 4, 8, 8)
          scale_param { bias_term: true }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param
        self.start = first_axis(self, bottom_shapes[0])
        if len(bottom_shapes) == 1:
            operand = learned_shape(self, bottom_shapes[0])
            ones = pb.FillerParameter(type="constant", value=1)
            self.add_blob(operand, param.filler if param.HasField("filler") else ones)
        else:
            operand = bottom_shapes[1]
        if param.bias_term:
            self.add_blob(operand, param.bias_filler)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        for operand in [*bottom_shapes[1:], *self.blob_shapes]:
            check_operand(self, bottom_shapes[0], operand)
        return bottom_shapes[:1]

    @property
    def per_sample(self) -> bool:
        return len(self.proto.bottom) == 1 and self.start > 0

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        scale, *bias = [aligned(o, self.start, x.dim()) for o in (*given, *self.blobs)]
        # Two plain operations: the backward of addcmul takes twice as long.
        return x * scale + bias[0] if bias else x * scale

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        operands = [(bottom, graph.shape(bottom)) for bottom in bottoms[1:]]
        operands += [(graph.blob(self, i), shape) for i, shape in enumerate(self.blob_shapes)]
        rank = len(graph.shape(bottoms[0]))
        scale, *bias = [aligned_onnx(graph, o, len(s), self.start, rank) for o, s in operands]
        scaled = graph.temporary("scaled") if bias else tops[0]
        graph.node("Mul", [bottoms[0], scale], [scaled])
        if bias:
            graph.node("Add", [scaled, *bias], tops)
