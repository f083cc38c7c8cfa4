"""MVN: normalises mean and variance of each sample, without learned values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..base import Layer, Shape, register

if TYPE_CHECKING:
    from ...export.graph import Graph


class _Normalize(torch.autograd.Function):
    """Divide by deviation plus eps; the gradient takes eps for a part of the deviation too."""

    @staticmethod
    def forward(ctx: Any, centred: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
        divisor = centred.square().mean(axes, keepdim=True).sqrt() + eps
        y = centred / divisor
        ctx.save_for_backward(y, divisor)
        ctx.axes = axes
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,), (y, divisor) = gradients, ctx.saved_tensors
        shared = y * (gradient * y).mean(ctx.axes, keepdim=True)
        return (gradient - shared) / divisor, None, None


@register("MVN", param="mvn_param")
class MVN(Layer):
    """Subtract the mean of each channel of each sample and divide by the standard deviation.

    ``y = (x - mean) / (sqrt(var) + eps)``, var being the biased variance; eps is outside the root.
    With across_channels over all channels of a sample at once; with ``normalize_variance: false``
    the mean is subtracted alone.

    Bottom: (N, C, H, W), or fewer axes. Top: (N, C, H, W), where axes the bottom lacks are 1.

    Raises:
        NetError: the bottom has more than 4 axes.

    Source: Caffe's MVNLayer, with its gradient: ``(g - mean(g) - y mean(g y)) / (sqrt(var) +
    eps)``. That is the derivative for a small eps, and finite where all values are equal.

    Sample::

        layer {
          name: "mvn"
          type: "MVN"
          bottom: "data"  # (2, 3, 8, 8)
          top: "mvn"  # (2, 3, 8, 8)
          mvn_param { across_channels: true }
        }
    """

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        (shape,) = bottom_shapes
        if len(shape) > 4:
            self.fail("Cannot use legacy accessors on Blobs with > 4 axes", bottom=shape)
        return [(*shape, *(1,) * (4 - len(shape)))]

    @property
    def per_sample(self) -> bool:
        return True

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the top over which mean and variance are taken."""
        return (1, 2, 3) if self.param.across_channels else (2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(self.top_shapes([x.shape])[0])
        centred = x - x.mean(self.axes, keepdim=True)
        if not self.param.normalize_variance:
            return centred
        y: Tensor = _Normalize.apply(centred, self.axes, self.param.eps)  # type: ignore[no-untyped-call]
        return y

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        rank = len(graph.shape(bottoms[0]))
        value, axes = bottoms[0], list(self.axes)
        if rank < 4:
            value = graph.temporary("four_axes")
            new_axes = graph.constant(list(range(rank, 4)), "new_axes")
            graph.node("Unsqueeze", [*bottoms, new_axes], [value])
        steps = ("mean", "centred", "square", "var", "root", "divisor")
        mean, centred, square, var, root, divisor = (graph.temporary(step) for step in steps)
        graph.node("ReduceMean", [value], [mean], axes=axes)
        if not self.param.normalize_variance:
            graph.node("Sub", [value, mean], tops)
            return
        graph.node("Sub", [value, mean], [centred])
        graph.node("Mul", [centred, centred], [square])
        graph.node("ReduceMean", [square], [var], axes=axes)
        graph.node("Sqrt", [var], [root])
        graph.node("Add", [root, graph.constant(self.param.eps, "eps")], [divisor])
        graph.node("Div", [centred, divisor], tops)
