"""RelationalDistanceLoss: a student's samples lie as far apart as its teacher's."""

from __future__ import annotations

from torch import Tensor

from ...losses.relations import relational_distance
from ..base import register
from .pair_loss import PairLoss


@register("RelationalDistanceLoss", bottoms=2, origin="caffe_kd")
class RelationalDistanceLoss(PairLoss):
    """Penalise distances between samples that differ from the teacher's (RKD-D).

    ``d_ij`` is the distance of samples i and j, divided by the batch's mean distance;
    ``loss = mean over i, j of h(d_ij of the student - d_ij of the teacher)`` with
    ``h(x) = x^2 / 2 where |x| < 1 and |x| - 1/2 elsewhere``. Usual loss_weight: 25, beside 50 for
    RelationalAngleLoss.

    Bottoms: the student's embeddings (N, ...), the teacher's (N, ...), of any numbers; two or more
    samples, one gives 0. Top: the loss, a scalar, 0 or more. No gradient goes to the teacher unless
    ``propagate_down`` asks for it.

    Raises:
        NetError: the bottoms differ in samples.

    Source: Park et al. 2019, Relational Knowledge Distillation, https://arxiv.org/abs/1904.05068.
        The mean over i and j includes i = j, as in the authors' code.

    Sample::

        layer {
          name: "rkd_distance"
          type: "RelationalDistanceLoss"
          bottom: "student/fc7"  # (4, 8)
          bottom: "teacher/fc7"  # (4, 16)
          top: "rkd_distance"  # scalar
          loss_weight: 25
        }
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return relational_distance(student, teacher)
