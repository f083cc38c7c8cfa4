"""ABLoss: a student's neurons fire where its teacher's do."""

from __future__ import annotations

import math

from torch import Tensor

from ...losses.features import activation_boundary
from ..base import Shape, register
from .pair_loss import PairLoss


@register("ABLoss", param="ab_loss_param", bottoms=2, origin="caffe_kd")
class ABLoss(PairLoss):
    """Penalise a student's neurons that don't fire where its teacher's do, or the reverse.

    Activation boundaries, with m for ``margin``::

        loss = sum of (s + m)^2 where the teacher's is 0 or less and s > -m,
                      (s - m)^2 where the teacher's is above 0 and s <= m,   divided by N

    One layer for each pair; of n pairs the i-th, from 0, has in the paper's code the loss_weight
    ``0.003 * 2^(i - n + 1)``: the last 0.003, those before half of what follows. It is meant
    for a training before that on labels, of the student's lower layers only.

    Bottoms: the student's features (N, ...) before any ReLU, usually from a connector in the
    distiller, a 1x1 Convolution with the teacher's number of channels; the teacher's, of the same
    shape, before or after a ReLU. Top: the loss, a scalar, 0 or more, in squared units of the
    student's features. It is not 0 for a student that equals its teacher, but for one whose
    features are m or more away from 0. The teacher has no gradient: only its sign counts.

    Raises:
        NetError: the bottoms differ in shape, or the margin is not above 0.

    Source: Heo et al. 2019, Knowledge Transfer via Distillation of Activation Boundaries Formed by
        Hidden Neurons, https://arxiv.org/abs/1811.03233.

    Sample::

        layer {
          name: "ab"
          type: "ABLoss"
          bottom: "student/conv3_fit"  # (4, 8, 4, 4)
          bottom: "teacher/conv3"  # (4, 8, 4, 4)
          top: "ab"  # scalar
          loss_weight: 0.003
        }
    """

    def check(self, student: Shape, teacher: Shape) -> None:
        self.check_channels(student, teacher)
        self.check_values(student, teacher)
        if not 0 < self.param.margin < math.inf:
            self.fail("margin must be above 0", margin=self.param.margin)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return activation_boundary(student, teacher, self.param.margin)
