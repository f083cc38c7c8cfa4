"""Reduction: reduces all values from an axis on to one number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ...proto import caffe_pb2 as pb
from ..base import Layer, Shape, register

if TYPE_CHECKING:
    from ...export.graph import Graph

_OPS = pb.ReductionParameter
_ONNX_OPS = {
    _OPS.SUM: "ReduceSum",
    _OPS.ASUM: "ReduceL1",
    _OPS.SUMSQ: "ReduceSumSquare",
    _OPS.MEAN: "ReduceMean",
}


@register("Reduction", param="reduction_param")
class Reduction(Layer):
    """Reduce the axes from ``axis`` to the last to one number, times ``coeff``.

    SUM: ``sum of x``; ASUM: ``sum of |x|``, with gradient 0 at 0; SUMSQ: ``sum of x^2``; MEAN:
    ``mean of x``.

    Bottom: any shape. Top: the axes before ``axis``; none, a scalar, for axis 0.

    Raises:
        NetError: the axis is out of range.

    Source: Caffe's ReductionLayer.

    Sample::

        layer {
          name: "mean"
          type: "Reduction"
          bottom: "fc7"  # (2, 10)
          top: "mean"  # (2)
          reduction_param { operation: MEAN axis: 1 }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.first_axis = self.axis(self.param.axis, len(bottom_shapes[0]))

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [bottom_shapes[0][: self.first_axis]]

    @property
    def per_sample(self) -> bool:
        return self.first_axis > 0

    def forward(self, x: Tensor) -> Tensor:
        axes, operation = tuple(range(self.first_axis, x.dim())), self.param.operation
        if operation == _OPS.MEAN:
            y = x.mean(axes)
        elif operation == _OPS.ASUM:
            y = x.abs().sum(axes)
        elif operation == _OPS.SUMSQ:
            y = x.square().sum(axes)
        else:
            y = x.sum(axes)
        return y if self.param.coeff == 1 else y * self.param.coeff

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        axes = list(range(self.first_axis, len(graph.shape(bottoms[0]))))
        op, reduced = _ONNX_OPS[self.param.operation], graph.temporary("reduced")
        if op == "ReduceSum":  # the only one that takes its axes as an input at this opset
            graph.node(op, [*bottoms, graph.constant(axes, "axes")], [reduced], keepdims=0)
        else:
            graph.node(op, bottoms, [reduced], axes=axes, keepdims=0)
        graph.node("Mul", [reduced, graph.constant(self.param.coeff, "coeff")], tops)
