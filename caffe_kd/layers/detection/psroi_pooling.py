"""PSROIPooling: mean pooling of regions' bins, each from its own channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base import Shape, register
from ..shared.boxes import RegionLayer, rounded

_LEAST_LENGTH = 0.1  # of a region on the plane, in positions


@register("PSROIPooling", param="psroi_pooling_param", bottoms=2, origin="R-FCN")
class PSROIPooling(RegionLayer):
    """Divide each region into g x g bins and take the mean in each, from the bin's own channels.

    With g = group_size, bin (i, j) of top channel d is a mean of bottom channel
    ``(d g + i) g + j``. A region (sample, x1, y1, x2, y2) in pixels of the image begins at
    ``s = round(x1) spatial_scale`` on the plane and is ``L = (round(x2) + 1) spatial_scale - s``
    long, at least 0.1; bin i is ``[floor(s + i L / g), ceil(s + (i + 1) L / g))``, cut to the
    plane. An empty bin is 0. The regions get no gradient.

    Bottoms: (N, output_dim g^2, H, W); regions (R, 5). Top: (R, output_dim, g, g).

    Raises:
        NetError: a parameter is missing or not positive, a bottom's shape is wrong, or a region's
            sample is not in the batch.

    Source: Dai et al. 2016; PSROIPoolingLayer of their fork for R-FCN. It sums in float32, this
    one in float64.

    Sample::

        layer {
          name: "psroi"
          type: "PSROIPooling"
          bottom: "maps"  # (2, 36, 8, 8)
          bottom: "rois"  # (5, 5)
          top: "psroi"  # (5, 4, 3, 3)
          psroi_pooling_param { spatial_scale: 0.0625 output_dim: 4 group_size: 3 }
        }
    """

    no_onnx = "ONNX has no such operator. Leave it and what follows it out of the net"

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.check_positive("spatial_scale", "output_dim", "group_size")

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        plane, regions = bottom_shapes
        self.check_bottoms(plane, regions)
        channels, bins = self.param.output_dim, self.param.group_size
        if plane[1] != channels * bins * bins:
            self.fail(
                "input channel number does not match layer parameters: it must be "
                "output_dim * group_size^2",
                channels=plane[1],
                output_dim=channels,
                group_size=bins,
            )
        return [(regions[0], channels, bins, bins)]

    def _bins(self, start: Tensor, end: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Return where along an axis the regions' bins begin and end, both (R, bins)."""
        bins, scale = self.param.group_size, self.param.spatial_scale
        first = (rounded(start) * scale)[:, None]
        last = ((rounded(end) + 1) * scale)[:, None]
        size = (last - first).clamp(min=_LEAST_LENGTH) / bins
        index = torch.arange(bins, device=start.device, dtype=start.dtype)
        low, high = (index * size + first).floor(), ((index + 1) * size + first).ceil()
        return low.long().clamp(0, length), high.long().clamp(0, length)

    def forward(self, x: Tensor, regions: Tensor) -> Tensor:
        regions = regions.detach().reshape(-1, 5)
        sample = self.read_indices(regions[:, 0], len(x))[:, None, None, None]
        top, bottom = self._bins(regions[:, 2], regions[:, 4], x.shape[2])
        left, right = self._bins(regions[:, 1], regions[:, 3], x.shape[3])
        top, bottom = top[:, None, :, None], bottom[:, None, :, None]
        left, right = left[:, None, None, :], right[:, None, None, :]
        channels, bins = self.param.output_dim, self.param.group_size
        channel = torch.arange(x.shape[1], device=x.device).reshape(channels, bins, bins)
        # sums[..., h, w] is the sum of all values above and left of (h, w).
        sums = F.pad(x.double().cumsum(2).cumsum(3), (1, 0, 1, 0))
        below = sums[sample, channel, bottom, right] - sums[sample, channel, bottom, left]
        above = sums[sample, channel, top, right] - sums[sample, channel, top, left]
        count = (bottom - top).clamp(min=0) * (right - left).clamp(min=0)
        mean = (below - above) / count.clamp(min=1)
        return torch.where(count > 0, mean, 0).to(x.dtype)
