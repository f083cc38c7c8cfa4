"""ROIPooling: the maxima in the bins of regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..base import Shape, register
from ..shared.boxes import RegionLayer, rounded

if TYPE_CHECKING:
    from ...export.graph import Graph

_MOST_VALUES = 2**22  # of all bins that are processed together: 16 MB


@dataclass(frozen=True)
class Bins:
    """The bins of all regions: rows from top to bottom, (R, P), columns left to right, (R, Q).

    The ends are excluded. Rows are counted through all samples.
    """

    top: Tensor
    bottom: Tensor
    left: Tensor
    right: Tensor

    @property
    def empty(self) -> Tensor:
        """Whether a bin has no positions, (R P Q)."""
        rows, columns = self.bottom <= self.top, self.right <= self.left
        return (rows[:, :, None] | columns[:, None, :]).flatten()

    def largest(self, values: Tensor, width: int) -> Tensor:
        """Return the index of each bin's largest value, the first of equals, (R P Q, C).

        Args:
            values: (positions, C).
            width: positions in a row.
        """
        down, across = self.top.shape[1], self.left.shape[1]
        top, tall = self.top.flatten(), (self.bottom - self.top).flatten()
        left, wide = self.left.flatten(), (self.right - self.left).flatten()
        greatest = max(1, int(tall.max()) * int(wide.max())) * values.shape[1]
        at_once, count = max(1, _MOST_VALUES // greatest), len(top) * across
        found = []
        for begin in range(0, count, at_once):
            end = min(begin + at_once, count)
            index = torch.arange(begin, end, device=values.device)
            row, column = index // across, index // (down * across) * across + index % across
            found.append(
                _largest(values, top[row] * width + left[column], tall[row], wide[column], width)
            )
        return torch.cat(found)


def _largest(values: Tensor, first: Tensor, tall: Tensor, wide: Tensor, width: int) -> Tensor:
    """Return the index of each window's largest value, for all windows together."""
    y = torch.arange(max(1, int(tall.max())), device=first.device)[:, None]
    x = torch.arange(max(1, int(wide.max())), device=first.device)
    outside = ((y >= tall[:, None, None]) | (x >= wide[:, None, None])).flatten(1)
    # Positions outside are replaced by the first, with -inf, which cannot be the largest.
    index = (first[:, None, None] + y * width + x).flatten(1).masked_fill(outside, 0)
    window = values[index].masked_fill_(outside[:, :, None], -torch.inf)
    return index.gather(1, window.max(1).indices)


@register("ROIPooling", param="roi_pooling_param", bottoms=2, origin="Fast R-CNN")
class ROIPooling(RegionLayer):
    """Divide each region into pooled_h x pooled_w bins and take the largest value in each.

    A region (sample, x1, y1, x2, y2) in pixels of the image covers the positions
    ``round(x1 spatial_scale)`` to ``round(x2 spatial_scale)``, at least one; halves are rounded
    away from zero. Bin i of P along a length L is ``[floor(i L / P), ceil((i + 1) L / P))``, cut to
    the plane. An empty bin is 0. The first of equal values gets the gradient; the regions
    get none.

    Bottoms: (N, C, H, W); regions (R, 5). Top: (R, C, pooled_h, pooled_w).

    Raises:
        NetError: pooled_h or pooled_w is 0, a bottom's shape is wrong, or a region's sample is
            not in the batch.

    Source: Girshick 2015; ROIPoolingLayer of his fork for Fast R-CNN.

    Sample::

        layer {
          name: "roi_pool5"
          type: "ROIPooling"
          bottom: "conv5"  # (2, 4, 8, 8)
          bottom: "rois"  # (5, 5)
          top: "pool5"  # (5, 4, 7, 7)
          roi_pooling_param { pooled_h: 7 pooled_w: 7 spatial_scale: 0.0625 }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.check_positive("pooled_h", "pooled_w")
        self.pooled = self.param.pooled_h, self.param.pooled_w

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        plane, regions = bottom_shapes
        self.check_bottoms(plane, regions)
        return [(regions[0], plane[1], *self.pooled)]

    def _bins(self, start: Tensor, end: Tensor, bins: int, length: int) -> tuple[Tensor, Tensor]:
        """Return where along an axis the regions' bins begin and end, both (R, bins)."""
        scale = self.param.spatial_scale
        first, last = rounded(start * scale).long(), rounded(end * scale).long()
        # In floats, as Caffe does: the last bin may reach one position too far.
        size = (last - first + 1).clamp(min=1).to(start.dtype)[:, None] / bins
        index = torch.arange(bins, device=start.device, dtype=start.dtype)
        low, high = (index * size).floor().long(), ((index + 1) * size).ceil().long()
        first = first[:, None]
        return (low + first).clamp(0, length), (high + first).clamp(0, length)

    def forward(self, x: Tensor, regions: Tensor) -> Tensor:
        _, channels, height, width = x.shape
        regions = regions.detach().reshape(-1, 5)
        sample = self.read_indices(regions[:, 0], len(x))
        top, bottom = self._bins(regions[:, 2], regions[:, 4], self.pooled[0], height)
        left, right = self._bins(regions[:, 1], regions[:, 3], self.pooled[1], width)
        values = x.permute(0, 2, 3, 1).reshape(-1, channels)  # a row for each position
        above = sample[:, None] * height  # the rows of all samples before
        bins = Bins(top + above, bottom + above, left, right)
        where = bins.largest(values.detach(), width)
        y = values.gather(0, where).masked_fill(bins.empty[:, None], 0)
        return y.reshape(len(regions), *self.pooled, channels).permute(0, 3, 1, 2)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        x, regions = bottoms
        if len(graph.shape(regions)) > 2:
            flat = graph.temporary("regions")
            graph.node("Reshape", [regions, graph.constant([0, 5], "shape")], [flat])
            regions = flat
        graph.node(
            "MaxRoiPool",
            [x, regions],
            tops,
            pooled_shape=self.pooled,
            spatial_scale=self.param.spatial_scale,
        )
