"""EuclideanLoss: half the squared distance per sample."""

from __future__ import annotations

import math

from torch import Tensor

from ...losses.classification import euclidean
from ..base import Layer, Shape, register
from .loss import check_same_batch_size


@register("EuclideanLoss", bottoms=2)
class EuclideanLoss(Layer):
    """Penalise the distance of two blobs.

    ``loss = sum of (a - b)^2 / (2 N)``; gradients ``(a - b) / N`` and ``(b - a) / N``. Both bottoms
    get theirs.

    Bottoms: two blobs (N, ...) with the same number of values per sample. Top: the loss, a scalar,
    0 or more, in squared units of the values.

    Raises:
        NetError: the bottoms differ in samples or values per sample.

    Source: Caffe's EuclideanLossLayer.

    Sample::

        layer {
          name: "loss"
          type: "EuclideanLoss"
          bottom: "prediction"  # (4, 3)
          bottom: "target"  # (4, 3)
          top: "loss"  # scalar
        }
    """

    is_loss = True

    def setup(self, bottom_shapes: list[Shape]) -> None:
        a, b = bottom_shapes
        check_same_batch_size(self, a, b)
        if math.prod(a) != math.prod(b):
            self.fail("Inputs must have the same dimension", bottom0=a, bottom1=b)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [()]

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return euclidean(a, b)
