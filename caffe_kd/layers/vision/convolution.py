"""Convolution over any number of spatial axes, and the base of related layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from ..base import Layer, Shape, register
from ..shared.many_axes import convolve_first_axis

if TYPE_CHECKING:
    from ...export.graph import Graph

_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@dataclass(frozen=True)
class Window:
    """The window that slides over the spatial axes, one number for each of them."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def inner(self) -> Window:
        """The window over the axes after the first."""
        return Window(self.kernel[1:], self.stride[1:], self.pad[1:], self.dilation[1:])

    @property
    def first(self) -> tuple[int, int, int]:
        """Stride, pad and dilation of the first axis."""
        return self.stride[0], self.pad[0], self.dilation[0]

    def out_size(self, sizes: Shape) -> Shape:
        """Return the number of window positions: ``(H + 2 p - (d (k - 1) + 1)) // s + 1``."""
        numbers = zip(sizes, self.kernel, self.stride, self.pad, self.dilation, strict=True)
        return tuple((e + 2 * p - (d * (k - 1) + 1)) // s + 1 for e, k, s, p, d in numbers)

    def span(self, out_size: Shape) -> Shape:
        """Return the smallest sizes with this out_size: ``(n - 1) s + d (k - 1) + 1 - 2 p``."""
        numbers = zip(out_size, self.kernel, self.stride, self.pad, self.dilation, strict=True)
        return tuple((n - 1) * s + d * (k - 1) + 1 - 2 * p for n, k, s, p, d in numbers)


# Without spatial axes, every sample is one position.
_ONE_POSITION = Window(kernel=(1,), stride=(1,), pad=(0,), dilation=(1,))


def window(layer: Layer, spatial_axes: int) -> Window:
    """Read kernel, stride, pad and dilation of a layer's convolution_param.

    Raises:
        NetError: one is given in both forms, or for a wrong number of axes, or is zero.

    Source: Caffe's BaseConvolutionLayer.
    """
    kernel = _per_axis(layer, "kernel_size", "kernel", spatial_axes, None)
    return Window(
        kernel=_nonzero(layer, kernel, "Filter dimensions"),
        stride=_nonzero(layer, _per_axis(layer, "stride", "stride", spatial_axes, 1), "Stride"),
        pad=_per_axis(layer, "pad", "pad", spatial_axes, 0),
        dilation=_nonzero(layer, _per_axis(layer, "dilation", "", spatial_axes, 1), "Dilation"),
    )


def _per_axis(
    layer: Layer, field: str, stem: str, axes: int, default: int | None
) -> tuple[int, ...]:
    """Read a number for each axis: from ``stem``_h and _w, else from the repeated ``field``."""
    given = list(getattr(layer.param, field))
    names = [f"{stem}_h", f"{stem}_w"] if stem else []
    if any(layer.param.HasField(name) for name in names):
        if axes != 2:
            layer.fail(
                f"{names[0]} & {names[1]} can only be used for 2D convolution", spatial_axes=axes
            )
        if given:
            layer.fail(
                f"Either {field} or {stem}_h/w should be specified; not both", **{field: given}
            )
        return tuple(getattr(layer.param, name) for name in names)
    if not given and default is not None:
        given = [default]
    if len(given) not in (1, axes):
        layer.fail(
            f"{field} must be specified once, or once per spatial dimension "
            f"({field} specified {len(given)} times; {axes} spatial dims)"
        )
    return tuple(given * axes if len(given) == 1 else given)


def _nonzero(layer: Layer, numbers: tuple[int, ...], what: str) -> tuple[int, ...]:
    if 0 in numbers:
        layer.fail(f"{what} must be nonzero", received=numbers)
    return numbers


class BaseConvolution(Layer):
    """The base of Convolution and Deconvolution."""

    as_many_tops_as_bottoms = True
    no_top: str  # the error if the top would be empty
    onnx_op: str

    def weight_channels(self) -> Shape:
        """Return the first two sizes of the weight."""
        raise NotImplementedError

    def top_dims(self, sizes: Shape) -> Shape:
        """Return a top's spatial sizes, given the bottom's."""
        raise NotImplementedError

    def slide(self, x: Tensor, weight: Tensor, bias: Tensor | None, window: Window) -> Tensor:
        """Return the top of x (N, C, spatial axes...)."""
        raise NotImplementedError

    def setup(self, bottom_shapes: list[Shape]) -> None:
        shape, param = bottom_shapes[0], self.param
        self.channel_axis = self.axis(param.axis, len(shape))
        self.spatial_axes = len(shape) - self.channel_axis - 1
        self.window = window(self, self.spatial_axes)
        self.channels = shape[self.channel_axis]
        self.check_num_output()
        if param.group < 1 or self.channels % param.group:
            self.fail(
                "the bottom's channels should be multiples of group",
                channels=self.channels,
                group=param.group,
            )
        if param.num_output % param.group:
            self.fail(
                "Number of output should be multiples of group",
                num_output=param.num_output,
                group=param.group,
            )
        for top in self.top_shapes(bottom_shapes[:1]):  # before memory is allocated for the weights
            self.check_shape(top, "the top")
        self.add_blob((*self.weight_channels(), *self.window.kernel), param.weight_filler)
        if param.bias_term:
            self.add_blob((param.num_output,), param.bias_filler)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        shape, axis = bottom_shapes[0], self.channel_axis
        for index, other in enumerate(bottom_shapes):
            if other != shape:
                self.fail(
                    f"shape mismatch - bottom[0]: {shape} vs. bottom[{index}]: {other}",
                )
        if len(shape) != axis + 1 + self.spatial_axes or shape[axis] != self.channels:
            self.fail(
                "Input size incompatible with convolution kernel",
                bottom=shape,
                channels=self.channels,
                spatial_axes=self.spatial_axes,
            )
        sizes = self.top_dims(shape[axis + 1 :])
        if any(size < 1 for size in sizes):
            self.fail(
                self.no_top,
                bottom=shape,
                kernel=self.window.kernel,
                pad=self.window.pad,
                dilation=self.window.dilation,
            )
        return [(*shape[:axis], self.param.num_output, *sizes)] * len(bottom_shapes)

    @property
    def per_sample(self) -> bool:
        return bool(self.param.axis == 1)

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._from_one(x) for x in bottoms)

    def _from_one(self, x: Tensor) -> Tensor:
        leading = x.shape[: self.channel_axis]
        if self.channel_axis != 1:
            x = x.reshape(math.prod(leading), *x.shape[self.channel_axis :])
        y = self.sum_products(self._operator, x, *self.blobs)
        return y if self.channel_axis == 1 else y.reshape(*leading, *y.shape[1:])

    def _operator(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if self.spatial_axes:
            return self.slide(x, weight, bias, self.window)
        x, weight = x.unsqueeze(-1), weight.unsqueeze(-1)
        return self.slide(x, weight, bias, _ONE_POSITION).squeeze(-1)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        if self.channel_axis != 1 or self.spatial_axes not in _CONVOLVE:
            return super().onnx(graph, bottoms, tops)
        blobs = [graph.blob(self, index) for index in range(len(self.blobs))]
        for bottom, top in zip(bottoms, tops, strict=True):
            graph.node(
                self.onnx_op,
                [bottom, *blobs],
                [top],
                kernel_shape=self.window.kernel,
                strides=self.window.stride,
                pads=self.window.pad * 2,
                dilations=self.window.dilation,
                group=self.param.group,
            )
        return None


@register("Convolution", param="convolution_param", bottoms=(1, None), tops=(1, None))
class Convolution(BaseConvolution):
    """Slide learned filters over the axes after the channel axis, the same for each bottom.

    ``y[o] = sum over i of w[o, i] * x[i] + b[o]``, where ``*`` is cross-correlation and ``i`` runs
    over the channels of o's group.

    Bottoms: (leading axes..., C, spatial axes...), all of one shape; C at ``axis``.
    Tops: (leading axes..., num_output, output sizes...), one for each bottom.
    Blobs: weight (num_output, C / group, kernel...), bias (num_output).

    Raises:
        NetError: kernel, stride, pad or dilation is wrong (see ``window``), channels or num_output
            are not multiples of group, the bottoms differ in shape, or the kernel is
            larger than the padded bottom.

    Source: Caffe's ConvolutionLayer.

    Sample::

        layer {
          name: "conv1"
          type: "Convolution"
          bottom: "data"  # (2, 3, 8, 8)
          top: "conv1"  # (2, 4, 8, 8)
          convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: "msra" } }
        }
    """

    no_top = "the kernel is larger than the padded bottom"
    output_axis: int | None = 0
    onnx_op = "Conv"

    def weight_channels(self) -> Shape:
        return self.param.num_output, self.channels // self.param.group

    def top_dims(self, sizes: Shape) -> Shape:
        return self.window.out_size(sizes)

    def slide(self, x: Tensor, weight: Tensor, bias: Tensor | None, window: Window) -> Tensor:
        w, convolve = window, _CONVOLVE.get(len(window.kernel))
        if convolve is None:
            inner = partial(self.slide, bias=None, window=w.inner)
            return convolve_first_axis(x, weight, bias, w.first, inner)
        return convolve(x, weight, bias, w.stride, w.pad, w.dilation, self.param.group)
