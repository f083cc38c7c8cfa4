"""Depthwise convolution under the names of Caffe's forks, from when grouping was slow."""

from __future__ import annotations

from ..base import Shape, register
from .convolution import Convolution


@register(
    "DepthwiseConvolution",
    param="convolution_param",
    bottoms=(1, None),
    tops=(1, None),
    origin="yonghenglh6",
)
class DepthwiseConvolution(Convolution):
    """Filter each channel alone: a Convolution with as many groups as the bottom has channels.

    ``y[o] = w[o] * x[o // m] + b[o]`` with m = num_output / C filters for each channel.

    Bottoms: (N, C, spatial axes...), all of one shape. Tops: (N, num_output, output sizes...).
    Blobs: weight (num_output, 1, kernel...), bias (num_output). num_output may be left out and is
    then C.

    Raises:
        NetError: num_output is not a multiple of C, group is given and is not C, and as with
            Convolution.

    Source: yonghenglh6/DepthwiseConvolution, on Howard et al. 2017. Without a group its CPU code is
    an ordinary convolution and its GPU code a depthwise one; here it is depthwise always.

    Sample::

        layer {
          name: "conv2_dw"
          type: "DepthwiseConvolution"
          bottom: "conv1"  # (2, 4, 8, 8)
          top: "conv2_dw"  # (2, 4, 8, 8)
          convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: "msra" } }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        shape, given = bottom_shapes[0], self.param
        channels = shape[self.axis(given.axis, len(shape))]
        if given.HasField("group") and given.group != channels:
            self.fail(
                "each channel is a group of its own: group must be the bottom's channels. Leave it "
                "out, or use a Convolution",
                group=given.group,
                channels=channels,
            )
        self.check_filters(given.num_output or channels, channels)
        param = type(given)()
        param.CopyFrom(given)
        param.num_output, param.group = given.num_output or channels, channels
        # Not the net's own message, which snapshots contain unchanged.
        self.settings = self.param = param
        super().setup(bottom_shapes)

    def check_filters(self, filters: int, channels: int) -> None:
        """Fail unless all channels have the same number of filters."""
        if filters % channels:
            self.fail(
                "num_output must be a multiple of the bottom's channels",
                num_output=filters,
                channels=channels,
            )


@register("ConvolutionDepthwise", param="convolution_param", origin="farmingyard")
class ConvolutionDepthwise(DepthwiseConvolution):
    """Filter each channel alone, by one filter: ``y[c] = w[c] * x[c] + b[c]``.

    Bottom: (N, C, spatial axes...). Top: (N, C, output sizes...).
    Blobs: weight (C, 1, kernel...), bias (C).

    Raises:
        NetError: num_output or group is given and is not C, and as with Convolution.

    Source: the layer of farmingyard/caffe-mobilenet (BVLC's pull request 5665), which ignores
    num_output and group; values other than C are refused here.

    Sample::

        layer {
          name: "conv2_dw"
          type: "ConvolutionDepthwise"
          bottom: "conv1"  # (2, 4, 8, 8)
          top: "conv2_dw"  # (2, 4, 8, 8)
          convolution_param { kernel_size: 3 pad: 1 weight_filler { type: "msra" } }
        }
    """

    def check_filters(self, filters: int, channels: int) -> None:
        if filters != channels:
            self.fail(
                "there is one filter for each channel: num_output must be the bottom's channels",
                num_output=filters,
                channels=channels,
            )
