"""Deconvolution: the convolution that enlarges."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor

from ..base import Shape, register
from ..shared.many_axes import deconvolve_first_axis
from .convolution import BaseConvolution, Window

_DECONVOLVE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@register("Deconvolution", param="convolution_param", bottoms=(1, None), tops=(1, None))
class Deconvolution(BaseConvolution):
    """Place learned patches along the axes after the channel axis and add them up.

    The linear map of a Convolution, transposed: each value of bottom channel i puts
    ``value * w[i, o]`` into top channel o of i's group, ``stride`` apart; ``pad`` is cut off the
    edges. Of a bottom size n it makes ``(n - 1) stride + dilation (kernel - 1) + 1 - 2 pad``.

    With ``num_output`` and ``group`` the number of channels, kernel_size ``2 f - f % 2``, stride f,
    pad ``ceil((f - 1) / 2)`` and the filler "bilinear" it enlarges images f times.

    Bottoms: (leading axes..., C, spatial axes...), all of one shape; C at ``axis``.
    Tops: (leading axes..., num_output, larger spatial axes...), one for each bottom.
    Blobs: weight (C, num_output / group, kernel...), bias (num_output).

    Raises:
        NetError: as with Convolution, or the padding removes the whole top.

    Source: Caffe's DeconvolutionLayer.

    Sample::

        layer {
          name: "upscore"
          type: "Deconvolution"
          bottom: "score"  # (2, 4, 8, 8)
          top: "upscore"  # (2, 4, 16, 16)
          convolution_param { num_output: 4 group: 4 kernel_size: 4 stride: 2 pad: 1
            weight_filler { type: "bilinear" } }
        }
    """

    no_top = "the padding removes the whole top"
    output_axis: int | None = 1
    onnx_op = "ConvTranspose"

    def weight_channels(self) -> Shape:
        return self.channels, self.param.num_output // self.param.group

    def top_dims(self, sizes: Shape) -> Shape:
        return self.window.span(sizes)

    def slide(self, x: Tensor, weight: Tensor, bias: Tensor | None, window: Window) -> Tensor:
        w, deconvolve = window, _DECONVOLVE.get(len(window.kernel))
        if deconvolve is None:
            inner = partial(self.slide, bias=None, window=w.inner)
            return deconvolve_first_axis(x, weight, bias, w.first, inner)
        return deconvolve(x, weight, bias, w.stride, w.pad, 0, self.param.group, w.dilation)
