"""SmoothL1Loss: the box loss of Fast R-CNN."""

from __future__ import annotations

import math

from torch import Tensor

from ...losses.regression import smooth_l1
from ..base import Layer, Shape, register
from .loss import check_same_batch_size


@register("SmoothL1Loss", param="smooth_l1_loss_param", bottoms=(2, 4), origin="Fast R-CNN")
class SmoothL1Loss(Layer):
    """Penalise the distance of values to targets, that of outliers linearly.

    ``loss = sum of w_out * f(w_in * (x - t)) / N``, with ``f(d) = (sigma d)^2 / 2`` where
    ``|d| < 1 / sigma^2`` and ``|d| - 1 / (2 sigma^2)`` elsewhere; ``sigma`` is 1 by default. x and
    t both get their gradients.

    Bottoms: x (N, ...); t, as many; optionally w_in, as many; with that optionally w_out, as many.
    Top: the loss, a scalar, 0 or more.

    Raises:
        NetError: the bottoms differ in samples or in the number of values, or sigma is not above 0.

    Source: Girshick 2015, Fast R-CNN; py-faster-rcnn, which requires both weights or none. w_in
    alone is SSD's, whose gradient lacks the factor w_in: there it is 0 or 1, which makes no
    difference.

    Sample::

        layer {
          name: "loss_bbox"
          type: "SmoothL1Loss"
          bottom: "bbox_pred"  # (4, 8)
          bottom: "bbox_target"  # (4, 8)
          top: "loss_bbox"  # scalar
          smooth_l1_loss_param { sigma: 3 }
        }
    """

    is_loss = True
    constant_bottoms = (2, 3)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        values, *others = bottom_shapes
        for index, other in enumerate(others, 1):
            check_same_batch_size(self, values, other)
            if math.prod(values) != math.prod(other):
                self.fail(
                    "all bottoms must have the same number of values",
                    bottom0=values,
                    **{f"bottom{index}": other},
                )
        if not values:
            self.fail("the bottoms must have at least 1 axis", bottom0=values)
        if not 0 < self.param.sigma < math.inf:
            self.fail("sigma must be above 0", sigma=self.param.sigma)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [()]

    def forward(self, *bottoms: Tensor) -> Tensor:
        return smooth_l1(*bottoms, sigma=self.param.sigma)
