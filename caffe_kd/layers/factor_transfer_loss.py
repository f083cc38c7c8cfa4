"""FactorTransferLoss: a student's factors approach its teacher's."""

from __future__ import annotations

from torch import Tensor

from ..losses.features import factor_transfer
from .base import Shape, register
from .pair_loss import PairLoss


@register("FactorTransferLoss", param="factor_transfer_loss_param", bottoms=2, origin="caffe_kd")
class FactorTransferLoss(PairLoss):
    """Punish the distance of a student's factors to its teacher's.

    ``F(f) = n(mean over channels of f^p1)`` with ``n`` for length 1 over the positions of a record;
    ``loss = mean over records and positions of |F(f_s) - F(f_t)|^p2``. The paper draws the
    teacher's maps from a paraphraser, trained beforehand to compress and restore them, and the
    student's from a translator; either is Convolution layers, and both may be left out. Usual
    loss_weight: 200 to 500.

    Bottoms: the student's maps (N, C, H, W), the teacher's (N, D, K, L); the larger are
    average-pooled to the smaller. Top: the loss, a scalar, 0 or more. No gradient goes to the
    teacher unless ``propagate_down`` asks for it.

    Raises:
        NetError: the bottoms are no maps or differ in records, or p1 or p2 is 0.

    Source: Kim, Park, Kwak 2018, Paraphrasing Complex Network: Network Compression via Factor
        Transfer, https://arxiv.org/abs/1802.04977.
    """

    def check(self, student: Shape, teacher: Shape) -> None:
        self.check_maps(student, teacher)
        p1, p2 = self.param.p1, self.param.p2
        if p1 < 1 or p2 < 1:
            self.fail("p1 and p2 must be at least 1", p1=p1, p2=p2)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:  # type: ignore[override]
        return factor_transfer(student, teacher, self.param.p1, self.param.p2)
