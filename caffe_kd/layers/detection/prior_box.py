"""PriorBox: the boxes that SSD's predictions are relative to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..base import Layer, Shape, register
from ..shared.boxes import Array

if TYPE_CHECKING:
    from ...export.graph import Graph

_SAME_RATIO = 1e-6  # ratios closer to each other than this count as equal
# At one position: far beyond any net's, and little enough to try every pair of ratios.
_MOST_BOXES = 1000


@register("PriorBox", param="prior_box_param", bottoms=2, origin="SSD")
class PriorBox(Layer):
    """Make boxes of several sizes around the centre of each position of a plane.

    The centre of position (h, w) is ``((w + offset) step_w, (h + offset) step_h)`` in pixels.
    Around it lie, for each min_size in turn: the square of that side, the square of side
    ``sqrt(min_size max_size)`` if there are max_sizes, and for each aspect_ratio r other than 1 the
    box ``min_size sqrt(r)`` wide and ``min_size / sqrt(r)`` high; after r comes ``1 / r`` with
    ``flip``. Neither bottom's values matter, and there is no gradient.

    Bottoms: the plane (N, C, H, W), and the image (N, channels, height, width).
    Top: (1, 2, H W P 4) for P boxes at each position: the boxes (xmin, ymin, xmax, ymax) in units
    of the image's sides, in [0, 1] with ``clip``; then the variances of the coordinates.

    Raises:
        NetError: a bottom does not have 4 axes, min_size is missing or not positive, there are
            max_sizes but not one above each min_size, a ratio is not positive, P is above 1000,
            there are other than 0, 1 or 4 variances or one is not positive, or image or step are
            not positive or given twice.

    Source: PriorBoxLayer of Liu's fork for SSD (Liu et al. 2016), which truncates min_size
    and max_size too.

    Sample::

        layer {
          name: "priors"
          type: "PriorBox"
          bottom: "conv4"  # (2, 8, 4, 4)
          bottom: "data"  # (2, 3, 64, 64)
          top: "priors"  # (1, 2, 192)
          prior_box_param { min_size: 16 aspect_ratio: 2 flip: true }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.sizes = self._sizes()
        variance = list(self.param.variance) or [0.1]
        if len(variance) not in (1, 4):
            self.fail("Must and only provide 4 variance, or 1, or none", variance=variance)
        if min(variance) <= 0:
            self.fail("variance must be positive", variance=variance)
        self.variance = variance * (4 // len(variance))
        self.image = self._pair("img_size", "img")
        self.step = self._pair("step", "step")

    def _sizes(self) -> list[tuple[float, float]]:
        """Return width and height of the boxes around one position, in pixels."""
        smalls, larges = list(self.param.min_size), list(self.param.max_size)
        if not smalls:
            self.fail("must provide min_size")
        if not all(0 < small < math.inf for small in smalls):
            self.fail("min_size must be positive", min_size=smalls)
        if larges and len(larges) != len(smalls):
            self.fail("max_size must be given once per min_size", min_size=smalls, max_size=larges)
        for small, large in zip(smalls, larges, strict=False):
            if not small < large < math.inf:
                self.fail("max_size must be greater than min_size", min_size=small, max_size=large)
        roots = [math.sqrt(ratio) for ratio in self._ratios()]
        self._check_count(len(smalls) * (1 + len(roots)) + len(larges))
        sizes = []
        for index, small in enumerate(map(int, smalls)):
            sizes.append((float(small), float(small)))
            if larges:
                side = math.sqrt(small * int(larges[index]))
                sizes.append((side, side))
            sizes += [(small * root, small / root) for root in roots]
        return sizes

    def _ratios(self) -> list[float]:
        """Return the boxes' aspect ratios other than 1."""
        self._check_count(len(self.param.aspect_ratio))
        ratios = [1.0]
        for ratio in self.param.aspect_ratio:
            if not 0 < ratio < math.inf:
                self.fail("aspect_ratio must be positive", aspect_ratio=ratio)
            if all(abs(ratio - other) >= _SAME_RATIO for other in ratios):
                ratios += [ratio, float(np.float32(1 / ratio))] if self.param.flip else [ratio]
        return ratios[1:]

    def _check_count(self, boxes: int) -> None:
        if boxes > _MOST_BOXES:
            self.fail(f"at most {_MOST_BOXES} boxes at a position", boxes=boxes)

    def _pair(self, one: str, stem: str) -> tuple[float, float] | None:
        """Read height and width: both from ``one``, or each from its own field, or None."""
        param = self.param
        names = [f"{stem}_h", f"{stem}_w"]
        if any(param.HasField(name) for name in names):
            if param.HasField(one):
                self.fail(f"Either {one} or {stem}_h/{stem}_w should be specified; not both")
        elif param.HasField(one):
            names = [one, one]
        else:
            return None
        for name in names:
            if not getattr(param, name) > 0:
                self.fail(f"{name} should be larger than 0", **{name: getattr(param, name)})
        return getattr(param, names[0]), getattr(param, names[1])

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        for index, shape in enumerate(bottom_shapes):
            if len(shape) != 4:
                self.fail("each bottom must have 4 axes", **{f"bottom[{index}]": shape})
        height, width = bottom_shapes[0][2:]
        return [(1, 2, height * width * len(self.sizes) * 4)]

    def _priors(self, shapes: list[Shape]) -> Array:
        """Return the top, which depends on the bottoms' shapes alone; rounded as in Caffe."""
        plane, image = shapes[0][2:], self.image or shapes[1][2:]
        step = self.step or (image[0] / plane[0], image[1] / plane[1])
        offset = np.float32(self.param.offset)
        y, x = (
            (np.arange(count, dtype=np.float32) + offset) * np.float32(size)
            for count, size in zip(plane, step, strict=True)
        )
        centres = np.stack(np.broadcast_arrays(x, y[:, None]), -1).astype(np.float64)[:, :, None]
        halves = np.array(self.sizes, np.float32).astype(np.float64) / 2
        corners = np.concatenate((centres - halves, centres + halves), -1)
        boxes = (corners / (*image[::-1], *image[::-1])).astype(np.float32)
        if self.param.clip:
            boxes = boxes.clip(0, 1)
        variances = np.broadcast_to(np.array(self.variance, np.float32), boxes.shape)
        return np.stack((boxes.reshape(-1), variances.reshape(-1)))[None]

    def forward(self, plane: Tensor, image: Tensor) -> Tensor:
        priors = torch.from_numpy(self._priors([tuple(plane.shape), tuple(image.shape)]))
        return priors.to(plane.device, plane.dtype)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        priors = self._priors([graph.shape(name) for name in bottoms])
        graph.node("Identity", [graph.constant(priors, "priors")], tops)
