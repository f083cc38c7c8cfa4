"""RelationalAngleLoss: a student's samples form the triangles that its teacher's do."""

from __future__ import annotations

from torch import Tensor

from ...losses.relations import relational_angle
from ..base import register
from .pair_loss import PairLoss


@register("RelationalAngleLoss", bottoms=2, origin="caffe_kd")
class RelationalAngleLoss(PairLoss):
    """Penalise angles between samples that differ from the teacher's (RKD-A).

    ``loss = mean over i, j, k of h(cos_ijk of the student - cos_ijk of the teacher)``: cos_ijk is
    that of the angle at sample i between samples j and k of the batch, 0 if two are the same, and
    ``h(x) = x^2 / 2 where |x| < 1 and |x| - 1/2 elsewhere``. Usual loss_weight: 50, beside 25 for
    RelationalDistanceLoss.

    Bottoms: the student's embeddings (N, ...), the teacher's (N, ...), of any numbers; three or
    more samples, fewer give 0. Memory grows with N^3, and with N^2 times the features: use a batch
    of 64 to 256, and an embedding rather than a map. Top: the loss, a scalar in 0..3/2. No gradient
    goes to the teacher unless ``propagate_down`` asks for it.

    Raises:
        NetError: the bottoms differ in samples.

    Source: Park et al. 2019, Relational Knowledge Distillation, https://arxiv.org/abs/1904.05068.
        The mean is over all N^3 triplets, as in the authors' code.

    Sample::

        layer {
          name: "rkd_angle"
          type: "RelationalAngleLoss"
          bottom: "student/fc7"  # (4, 8)
          bottom: "teacher/fc7"  # (4, 16)
          top: "rkd_angle"  # scalar
          loss_weight: 50
        }
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return relational_angle(student, teacher)
