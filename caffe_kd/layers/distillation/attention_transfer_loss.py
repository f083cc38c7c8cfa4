"""AttentionTransferLoss: a student looks where its teacher looks."""

from __future__ import annotations

from torch import Tensor

from ...losses.features import attention_transfer
from ..base import Shape, register
from .pair_loss import PairLoss


@register("AttentionTransferLoss", bottoms=2, origin="caffe_kd")
class AttentionTransferLoss(PairLoss):
    """Penalise attention maps that differ from the teacher's.

    ``a(f) = n(mean over channels of f^2)``, where n scales a sample's map to length 1;
    ``loss = mean over samples and positions of (a(f_s) - a(f_t))^2``. One layer for each pair of
    maps, of similar depth. Usual loss_weight: 1000.

    Bottoms: the student's maps (N, C, H, W), the teacher's (N, D, K, L), with any numbers of
    channels; the larger are average-pooled to the smaller. Top: the loss, a scalar in
    0..2 / (H * W). No gradient goes to the teacher unless ``propagate_down`` asks for it.

    Raises:
        NetError: the bottoms are not maps, or differ in samples.

    Source: Zagoruyko, Komodakis 2017, Paying More Attention to Attention,
        https://arxiv.org/abs/1612.03928.

    Sample::

        layer {
          name: "at"
          type: "AttentionTransferLoss"
          bottom: "student/conv3"  # (4, 8, 4, 4)
          bottom: "teacher/conv3"  # (4, 16, 4, 4)
          top: "at"  # scalar
          loss_weight: 1000
        }
    """

    def check(self, student: Shape, teacher: Shape) -> None:
        self.check_maps(student, teacher)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return attention_transfer(student, teacher)
