"""Arithmetic of boxes and regions, for the layers of detectors.

A box is (xmin, ymin, xmax, ymax) in any unit; a region is (sample, x1, y1, x2, y2) in pixels, its
last pixel included.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from ...proto import caffe_pb2 as pb
from ..base import Shape
from .indices import IndexingLayer

Array = np.ndarray[Any, np.dtype[np.float32]]

_CODES = pb.PriorBoxParameter


def decode(code: Array, priors: Array, variances: Array | float, code_type: int) -> Array:
    """Return the boxes that predictions encode, relative to their priors.

    * CORNER: ``prior + variance * code``,
    * CORNER_SIZE: the same with code in units of the prior's width and height,
    * CENTER_SIZE: centre ``prior's + variance * code * prior's size``, size
      ``prior's * exp(variance * code)``.

    Args:
        code: (..., P, 4).
        priors: (P, 4) boxes.
        variances: (P, 4), or one for all.
        code_type: a PriorBoxParameter.CodeType.

    Source: DecodeBBox of Liu's fork for SSD.
    """
    code = variances * code
    if code_type == _CODES.CORNER:
        return priors + code
    size = priors[:, 2:] - priors[:, :2]
    if code_type == _CODES.CORNER_SIZE:
        return priors + code * np.tile(size, 2)
    centre = code[..., :2] * size + (priors[:, :2] + priors[:, 2:]) / 2
    with np.errstate(over="ignore"):
        half = np.exp(code[..., 2:]) * size / 2
    return np.concatenate((centre - half, centre + half), -1)


def overlap(box: Array, boxes: Array) -> Array:
    """Return the intersection of a box with each of (K, 4) boxes, over their union.

    Boxes that do not overlap, or whose corners are the wrong way round, have 0.
    """
    with np.errstate(all="ignore"):
        width, height = (np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])).T
        shared = width * height
        area = (box[2] - box[0]) * (box[3] - box[1])
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        ratio = shared / (area + areas - shared)
    return np.where((width <= 0) | (height <= 0), np.float32(0), ratio)


def suppress(boxes: Array, threshold: float, eta: float = 1.0) -> list[int]:
    """Return the indices of (K, 4) boxes, best first, that non-maximum suppression keeps.

    Args:
        boxes: in the order of their scores.
        threshold: the largest overlap with a better box that is kept.
        eta: below 1, multiplies the threshold after each box that is kept, while it is above 0.5.

    Source: ApplyNMSFast of Liu's fork for SSD.
    """
    kept: list[int] = []
    limit = np.float32(threshold)
    worst = np.zeros(len(boxes), np.float32)  # of the overlaps with boxes that are kept
    at = 0
    while at < len(boxes):
        at += int((worst[at:] <= limit).argmax())
        if not worst[at] <= limit:
            break
        kept.append(at)
        at += 1
        worst[at:] = np.maximum(worst[at:], overlap(boxes[at - 1], boxes[at:]))
        if eta < 1 and limit > 0.5:
            limit = np.float32(limit * np.float32(eta))
    return kept


def rounded(x: Tensor) -> Tensor:
    """Round to whole numbers, halves away from zero as C does (torch: to the even one)."""
    whole = x.trunc()
    return whole + torch.where((x - whole).abs() >= 0.5, x.sign(), 0)


class RegionLayer(IndexingLayer):
    """The base of layers that pool a plane's regions: (N, C, H, W) and (R, 5)."""

    constant_bottoms = (1,)

    @property
    def index_bottoms(self) -> dict[int, int]:
        return {1: 1}  # the first sample always exists

    def check_bottoms(self, plane: Shape, regions: Shape) -> None:
        """Fail unless the bottoms are a plane and regions of 5 values each."""
        self.check_plane(plane)
        if len(regions) < 2 or math.prod(regions[1:]) != 5:
            self.fail("ROI layer C x W x H must be == 5", **{"bottom[1]": regions})

    def check_positive(self, *fields: str) -> None:
        """Fail unless the settings are above 0."""
        for name in fields:
            if not getattr(self.param, name) > 0:
                self.fail(f"{name} must be > 0", **{name: getattr(self.param, name)})

    def refuse_index(self, index: int, count: int) -> NoReturn:
        self.fail(
            f"roi_batch_ind, the first value of a region, must be 0 to {count - 1}",
            roi_batch_ind=index,
        )
