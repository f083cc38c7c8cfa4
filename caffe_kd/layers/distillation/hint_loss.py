"""HintLoss: a student's features approach its teacher's."""

from __future__ import annotations

from torch import Tensor

from ...losses.features import hint, hint_norm
from ...proto import caffe_pb2 as pb
from ..base import Shape, register
from .pair_loss import PairLoss


@register("HintLoss", param="hint_loss_param", bottoms=2, origin="caffe_kd")
class HintLoss(PairLoss):
    """Penalise a student's features for their distance to its teacher's.

    ``loss = mean over all values of (f_s - f_t)^2``, or with ``distance: NORM``
    ``loss = sqrt(sum over all values of (f_s - f_t)^2)``, whose gradient is as large near the
    target as far from it. The student's usually come from a regressor, a Convolution (or
    InnerProduct) of the distiller with the teacher's number of channels. Usual loss_weight: 100
    where features are small, such as after batch normalisation; of the norm 0.03, between the exits
    of one net.

    Bottoms: the student's features (N, ...), the teacher's, of as many values. Top: the loss, a
    scalar, 0 or more, in squared units of the features, the norm in their units; EuclideanLoss has
    a different constant. No gradient goes to the teacher unless ``propagate_down`` asks for it.

    Raises:
        NetError: the bottoms differ in samples or values per sample.

    Source: Romero et al. 2015, FitNets: Hints for Thin Deep Nets, https://arxiv.org/abs/1412.6550;
        the norm: Zhang et al. 2019, Be Your Own Teacher, https://arxiv.org/abs/1905.08094.

    Sample::

        layer {
          name: "hint"
          type: "HintLoss"
          bottom: "student/regressor"  # (4, 16, 4, 4)
          bottom: "teacher/conv3"  # (4, 16, 4, 4)
          top: "hint"  # scalar
          loss_weight: 100
        }
    """

    def check(self, student: Shape, teacher: Shape) -> None:
        self.check_values(student, teacher)
        if len(student) == len(teacher) == 4 and student != teacher:
            self.fail(
                "maps of student and teacher must have the same shape. Give the regressor the "
                "num_output, kernel_size and stride that make it so",
                student=student,
                teacher=teacher,
            )

    @property
    def is_norm(self) -> bool:
        """Whether the loss is a length, and not a mean of squares."""
        return bool(self.param.distance == pb.HintLossParameter.NORM)

    def explain(self, bottom_shapes: list[Shape]) -> list[str]:
        if self.is_norm:
            return ["loss = sqrt(sum over all values of (f_s - f_t)^2)"]
        return ["loss = mean over all values of (f_s - f_t)^2"]

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return hint_norm(student, teacher) if self.is_norm else hint(student, teacher)
