"""VIDLoss: maximises the mutual information of a student's and its teacher's features."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...losses.features import VARIANCE_FLOOR, variational_information
from ..base import Shape, register
from .pair_loss import PairLoss


@register("VIDLoss", param="vid_loss_param", bottoms=2, origin="caffe_kd")
class VIDLoss(PairLoss):
    """Penalise the part of a teacher's features that its student's do not predict.

    ``loss = mean of ((mu - f_t)^2 / v + log v) / 2``, where mu is the output of a regressor in
    the distiller on the student's features (in the paper three 1x1 Convolutions with ReLU between)
    and v a learned variance of each channel: channels that the student cannot predict count less.
    One layer for each pair. Usual loss_weight: 1.

    Bottoms: mu (N, C, ...), the teacher's features (N, C, ...), of the same shape; of maps the
    larger are average-pooled to the smaller. Top: the loss, a scalar in nats, of any sign; its
    least value for v is ``(1 + log v) / 2`` at v = mean of (mu - f_t)^2. No gradient goes to the
    teacher unless ``propagate_down`` asks for it.

    Blobs: a (C), with ``v = softplus(a) + 1e-5``, at first ``initial_variance``. Weight decay pulls
    v to 0.69: ``param { decay_mult: 0 }`` prevents that.

    Raises:
        NetError: the bottoms differ in samples, channels or, but for maps, in shape, or
            initial_variance is not above 1e-5.

    Source: Ahn et al. 2019, Variational Information Distillation for Knowledge Transfer,
        https://arxiv.org/abs/1904.05835.

    Sample::

        layer {
          name: "vid" type: "VIDLoss"
          bottom: "student/regressor"  # (4, 16, 4, 4)
          bottom: "teacher/conv3"  # (4, 16, 4, 4)
          top: "vid"  # scalar
          param { decay_mult: 0 }
          vid_loss_param { initial_variance: 5 }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        super().setup(bottom_shapes)
        variance = self.param.initial_variance
        if not VARIANCE_FLOOR < variance < math.inf:
            self.fail(f"initial_variance must be above {VARIANCE_FLOOR}", initial_variance=variance)
        self.add_blob((bottom_shapes[1][1],))
        above = torch.tensor(variance - VARIANCE_FLOOR, dtype=torch.float64)
        with torch.no_grad():
            self.blobs[0].fill_(float(above + torch.log(-torch.expm1(-above))))  # softplus inverted

    def check(self, student: Shape, teacher: Shape) -> None:
        self.check_channels(student, teacher)
        if not len(student) == len(teacher) == 4:
            self.check_values(student, teacher)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return variational_information(student, teacher, self.blobs[0])
