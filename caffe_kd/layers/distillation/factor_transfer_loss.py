"""FactorTransferLoss: a student's factors approach its teacher's."""

from __future__ import annotations

from torch import Tensor

from ...losses.features import factor_transfer
from ..base import Shape, register
from .pair_loss import PairLoss


@register("FactorTransferLoss", param="factor_transfer_loss_param", bottoms=2, origin="caffe_kd")
class FactorTransferLoss(PairLoss):
    """Penalise the distance of a student's factors to its teacher's.

    ``F(f) = n(mean over channels of f^p1)``, with ``p1: 0`` ``F(f) = n(f)``, where n scales a
    sample's values to length 1; ``loss = mean over all values of |F(f_s) - F(f_t)|^p2``. The paper
    gets the teacher's maps from a paraphraser, trained beforehand to compress and restore them, and
    the student's from a translator. These are Convolution layers, or left out: the layer takes maps
    as they are. Usual loss_weight: 200 to 500.

    Bottoms: the student's maps (N, C, H, W), the teacher's (N, D, K, L), D = C where p1 is 0; the
    larger are average-pooled to the smaller. Top: the loss, a scalar, 0 or more. No gradient goes
    to the teacher unless ``propagate_down`` asks for it.

    Raises:
        NetError: the bottoms are not maps or differ in samples, or in channels where p1 is 0, or p2
            is 0.

    Source: Kim, Park, Kwak 2018, Paraphrasing Complex Network: Network Compression via Factor
        Transfer, https://arxiv.org/abs/1802.04977: there p1 is 0, p2 is 1. The default p1 is that
        of a common implementation, which takes factors for attention maps.

    Sample::

        layer {
          name: "ft" type: "FactorTransferLoss"
          bottom: "student/translator"  # (4, 8, 4, 4)
          bottom: "teacher/paraphraser"  # (4, 8, 4, 4)
          top: "ft"  # scalar
          loss_weight: 200
          factor_transfer_loss_param { p1: 0 p2: 1 }
        }
    """

    def check(self, student: Shape, teacher: Shape) -> None:
        self.check_maps(student, teacher)
        p1, p2 = self.param.p1, self.param.p2
        if p2 < 1:
            self.fail("p2 must be at least 1", p1=p1, p2=p2)
        if p1 == 0:
            self.check_channels(student, teacher)

    def explain(self, bottom_shapes: list[Shape]) -> list[str]:
        p1, p2 = self.param.p1, self.param.p2
        factor = f"mean over channels of f^{p1}" if p1 else "f"
        power = f"^{p2}" if p2 > 1 else ""
        return [f"loss = mean over all values of |F(f_s) - F(f_t)|{power}", f"F(f) = n({factor})"]

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return factor_transfer(student, teacher, self.param.p1, self.param.p2)
