"""FSPLoss: the relation of two of a student's layers is that of its teacher's."""

from __future__ import annotations

from torch import Tensor

from ...losses.features import fsp
from ..base import Shape, register
from .pair_loss import PairLoss


@register("FSPLoss", bottoms=4, origin="caffe_kd")
class FSPLoss(PairLoss):
    """Penalise a flow of solution procedure (FSP matrix) that differs from the teacher's.

    ``G_ij = mean over positions of a_i * b_j``, for channel i of one map and j of a later one of
    the same net; ``loss = mean over all values of (G_s - G_t)^2``. One layer for each pair of
    pairs. Usual loss_weight: 50.

    Bottoms: two maps of the student (N, C, H, W) and (N, D, K, L), then the teacher's two, with the
    same numbers of channels; within a net the larger map is average-pooled to the smaller (the
    paper uses maps of one size). Where channels differ, a 1x1 Convolution in the distiller makes
    the student's fit. Top: the loss, a scalar, 0 or more, in units of the features to the fourth.
    No gradient goes to the teacher unless ``propagate_down`` asks for it.

    Raises:
        NetError: the bottoms are not maps, or differ in samples or channels.

    Source: Yim et al. 2017, A Gift from Knowledge Distillation: Fast Optimization, Network
        Minimization and Transfer Learning (CVPR).

    Sample::

        layer {
          name: "fsp" type: "FSPLoss" loss_weight: 50
          bottom: "student/conv1"  # (4, 8, 8, 8)
          bottom: "student/conv3"  # (4, 16, 4, 4)
          bottom: "teacher/conv1"  # (4, 8, 8, 8)
          bottom: "teacher/conv3"  # (4, 16, 4, 4)
          top: "fsp"  # scalar
        }
    """

    constant_bottoms = (2, 3)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        student, teacher = bottom_shapes[:2], bottom_shapes[2:]
        self.check_maps(*bottom_shapes)
        for other in bottom_shapes[1:]:
            self.check_batch_size(bottom_shapes[0], other)
        for of_student, of_teacher in zip(student, teacher, strict=True):
            self.check_channels(of_student, of_teacher)

    def forward(self, s1: Tensor, s2: Tensor, t1: Tensor, t2: Tensor) -> Tensor:
        return fsp((s1, s2), (t1, t2))
