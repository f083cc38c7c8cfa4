"""SimilarityPreservingLoss: samples are as similar to a student as they are to its teacher."""

from __future__ import annotations

from torch import Tensor

from ...losses.relations import similarity_preserving
from ..base import register
from .pair_loss import PairLoss


@register("SimilarityPreservingLoss", bottoms=2, origin="caffe_kd")
class SimilarityPreservingLoss(PairLoss):
    """Penalise similarities between samples that differ from the teacher's.

    ``loss = |n(F_s F_s^T) - n(F_t F_t^T)|^2 / N^2``, where F has a row for each sample of the batch
    and ``n`` brings rows to length 1. Usual loss_weight: 3000.

    Bottoms: the student's features (N, ...), the teacher's (N, ...), of any numbers; N is best 32
    or more. Top: the loss, a scalar in 0..4 / N. No gradient goes to the teacher unless
    ``propagate_down`` asks for it.

    Raises:
        NetError: the bottoms differ in samples.

    Source: Tung, Mori 2019, Similarity-Preserving Knowledge Distillation,
        https://arxiv.org/abs/1907.09682.

    Sample::

        layer {
          name: "sp"
          type: "SimilarityPreservingLoss"
          bottom: "student/conv3"  # (4, 8, 4, 4)
          bottom: "teacher/conv3"  # (4, 16, 4, 4)
          top: "sp"  # scalar
          loss_weight: 3000
        }
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return similarity_preserving(student, teacher)
