"""CorrelationCongruenceLoss: a student's errors on successive samples are unrelated."""

from __future__ import annotations

from torch import Tensor

from ...losses.relations import correlation_congruence
from ..base import Shape, register
from .pair_loss import PairLoss


@register("CorrelationCongruenceLoss", bottoms=2, origin="caffe_kd")
class CorrelationCongruenceLoss(PairLoss):
    """Penalise differences to the teacher that two successive samples share.

    ``d_i = e_s - e_t`` for sample i; ``loss = mean over i of the sum over features of
    |d_i| |d_(i+1)|``. The embeddings are usually linear, an InnerProduct of 128 outputs in the
    distiller for each net. Usual loss_weight: 0.02.

    Bottoms: the student's embeddings (N, K), the teacher's, of the same shape; a batch of one gives
    0. Top: the loss, a scalar, 0 or more, in squared units of the embeddings. No gradient goes to
    the teacher's unless ``propagate_down`` asks for it; if it does, nothing prevents both
    embeddings from collapsing to a point.

    Raises:
        NetError: the bottoms differ in samples or values per sample.

    Source: Peng et al. 2019, Correlation Congruence for Knowledge Distillation,
        https://arxiv.org/abs/1904.01802. The paper compares kernel matrices; this is the form of
        a common implementation, which trains both embeddings.

    Sample::

        layer {
          name: "cc"
          type: "CorrelationCongruenceLoss"
          bottom: "student/embedding"  # (4, 16)
          bottom: "teacher/embedding"  # (4, 16)
          top: "cc"  # scalar
          loss_weight: 0.02
        }
    """

    def check(self, student: Shape, teacher: Shape) -> None:
        self.check_values(student, teacher)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return correlation_congruence(student, teacher)
