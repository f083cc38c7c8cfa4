"""PKTLoss: a student's samples have the neighbours that its teacher's have."""

from __future__ import annotations

from torch import Tensor

from ...losses.relations import probabilistic_transfer
from ..base import register
from .pair_loss import PairLoss


@register("PKTLoss", bottoms=2, origin="caffe_kd")
class PKTLoss(PairLoss):
    """Penalise probabilities of neighbouring samples that differ from the teacher's.

    Probabilistic knowledge transfer: p_ij is ``(cosine similarity of samples i and j + 1) / 2``,
    divided by its sum over j; ``loss = mean over i, j of p_t log((p_t + e) / (p_s + e))`` with
    e = 1e-7. Usual loss_weight: 30000.

    Bottoms: the student's features (N, ...), the teacher's (N, ...), of any numbers. Top: the loss,
    a scalar in nats, 0 or more, up to e. No gradient goes to the teacher unless ``propagate_down``
    asks for it.

    Raises:
        NetError: the bottoms differ in samples.

    Source: Passalis, Tefas 2018, Learning Deep Representations with Probabilistic Knowledge
        Transfer, https://arxiv.org/abs/1803.10837.

    Sample::

        layer {
          name: "pkt"
          type: "PKTLoss"
          bottom: "student/fc7"  # (4, 8)
          bottom: "teacher/fc7"  # (4, 16)
          top: "pkt"  # scalar
          loss_weight: 30000
        }
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return probabilistic_transfer(student, teacher)
