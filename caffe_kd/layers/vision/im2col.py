"""Im2col: lays out the windows of a convolution as channels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ..base import Layer, Shape, register
from .convolution import window

if TYPE_CHECKING:
    from ...export.graph import Graph


@register("Im2col", param="convolution_param")
class Im2col(Layer):
    """Put the values under a convolution's window into the channels, position by position.

    ``y[c K + k] = x[c]`` at the window's point k of K, counted along the last axis first; padding
    is 0. A Convolution is a product of its weights and this.

    Bottom: (leading axes..., C, spatial axes...); C at ``axis``.
    Top: (leading axes..., C K, output sizes...).

    Raises:
        NetError: there is no spatial axis, kernel, stride, pad or dilation is wrong (see
            ``convolution.window``), or the kernel is larger than the padded bottom.

    Source: Caffe's Im2colLayer.

    Sample::

        layer {
          name: "columns"
          type: "Im2col"
          bottom: "data"  # (2, 3, 8, 8)
          top: "columns"  # (2, 27, 6, 6)
          convolution_param { kernel_size: 3 }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        (shape,) = bottom_shapes
        self.channel_axis = self.axis(self.param.axis, len(shape))
        self.spatial_axes = range(self.channel_axis + 1, len(shape))
        if not self.spatial_axes:
            self.fail(
                "the bottom must have a spatial axis after the channels",
                bottom=shape,
                axis=self.param.axis,
            )
        self.window = window(self, len(self.spatial_axes))

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        (shape,), at, w = bottom_shapes, self.channel_axis, self.window
        out_size = w.out_size(shape[at + 1 :])
        if any(n < 1 for n in out_size):
            self.fail(
                "the kernel is larger than the padded bottom",
                bottom=shape,
                kernel=w.kernel,
                pad=w.pad,
                dilation=w.dilation,
            )
        padded = [size + 2 * pad for size, pad in zip(shape[at + 1 :], w.pad, strict=True)]
        self.check_shape((*shape[: at + 1], *padded), "the padded bottom")
        return [(*shape[:at], shape[at] * math.prod(w.kernel), *out_size)]

    @property
    def per_sample(self) -> bool:
        return self.channel_axis > 0

    def forward(self, x: Tensor) -> Tensor:
        (top,) = self.top_shapes([x.shape])
        w, at = self.window, self.channel_axis
        y = F.pad(x, [pad for p in reversed(w.pad) for pad in (p, p)])
        numbers = zip(self.spatial_axes, w.kernel, w.stride, w.dilation, strict=True)
        for axis, kernel, stride, dilation in numbers:
            # The points of the window become a new last axis.
            y = y.unfold(axis, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
        count = len(self.spatial_axes)
        points = range(x.dim(), x.dim() + count)
        return y.movedim(tuple(points), tuple(range(at + 1, at + 1 + count))).reshape(top)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        shape = graph.shape(bottoms[0])
        (top,) = self.top_shapes([shape])
        w, at = self.window, self.channel_axis
        before = [0] * (at + 1) + list(w.pad)
        value = graph.temporary("padded")
        graph.node("Pad", [bottoms[0], graph.constant(before * 2, "pads")], [value])
        # From the last axis, so that the remaining axes keep their numbers. An axis becomes two:
        # the window's points along it, and its positions.
        for index in reversed(range(len(self.spatial_axes))):
            points = np.arange(w.kernel[index])[:, None] * w.dilation[index]
            starts = np.arange(top[at + 1 + index]) * w.stride[index]
            windows = graph.temporary("windows")
            picked = [value, graph.constant(points + starts, "picked")]
            graph.node("Gather", picked, [windows], axis=at + 1 + index)
            value = windows
        points_axes = range(at + 1, 2 * len(shape) - at - 1, 2)
        order = [*range(at + 1), *points_axes, *(axis + 1 for axis in points_axes)]
        sorted_axes = graph.temporary("sorted")
        graph.node("Transpose", [value], [sorted_axes], perm=order)
        # 0 copies the batch size; if the channels are axis 0, -1 lets them vary.
        target = graph.constant([0 if at else -1, *top[1:]], "shape")
        graph.node("Reshape", [sorted_axes, target], tops)
