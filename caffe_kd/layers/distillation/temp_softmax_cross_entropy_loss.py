"""TempSoftmaxCrossEntropyLoss: distillation in its limit of high temperatures."""

from __future__ import annotations

import math

from torch import Tensor

from ...losses.fork_distillation import temp_softmax_cross_entropy
from .. import formula
from ..base import Layer, Shape, register
from ..loss.loss import check_same_batch_size


@register(
    "TempSoftmaxCrossEntropyLoss", param="tempsoftmax_param", bottoms=2, origin="BVLC pull request"
)
class TempSoftmaxCrossEntropyLoss(Layer):
    """Penalise a student's logits for differing from its teacher's.

    With z the logits less the mean of all of their sample's, and ``p = softmax(z / T)`` along
    ``axis`` (softmax_param, default 1)::

        loss = sum of -p_t * log(max(p_s, FLT_MIN)) / N
        gradient to the student = (z_s - z_t) / (C T^2) / N          C: the size of axis 1

    The gradient is not that of the value but its limit for T far above the logits. It shrinks with
    T, since it has no factor T^2; DistillingLoss does better in both respects.

    Bottoms: the student's logits (N, C, ...); the teacher's, as many. Top: the loss, a scalar in
    nats. No gradient goes to the teacher.

    Raises:
        NetError: the logits differ in samples or in the number of values, or the temperature is not
            above 1.

    Source: a pull request to BVLC that was not merged; https://arxiv.org/abs/1503.02531,
        section 2.1.

    Sample::

        layer {
          name: "kd"
          type: "TempSoftmaxCrossEntropyLoss"
          bottom: "student/fc8"  # (4, 10)
          bottom: "teacher/fc8"  # (4, 10)
          top: "kd"  # scalar
          tempsoftmax_param { temperature: 4 }
        }
    """

    is_loss = True
    constant_bottoms = (1,)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        student, teacher = bottom_shapes
        check_same_batch_size(self, student, teacher)
        if math.prod(student) != math.prod(teacher):
            self.fail(
                "TEMP_SOFTMAX_CROSS_ENTROPY_LOSS layer inputs must have the same count",
                student=student,
                teacher=teacher,
            )
        if len(student) < 2:
            self.fail("the logits must have at least 2 axes", student=student)
        self.class_axis = self.axis(self.proto.softmax_param.axis, len(student))
        if not 1 < self.param.temperature < math.inf:
            self.fail(
                "Gradient assumes a (high) softmax temperature of greater than 1",
                temperature=self.param.temperature,
            )

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [()]

    def explain(self, bottom_shapes: list[Shape]) -> list[str]:
        (samples, classes, *_), t = bottom_shapes[0], formula.number(self, "temperature")
        student, teacher = formula.names(self)
        return [
            f"loss = sum of -p_t * log p_s / {samples}, p = softmax(z / {t})",
            f"gradient to z_s = (z_s - z_t) / ({classes} * {t}^2) / {samples}",
            f"z_s = {student}, z_t = {teacher}, each less its mean over the sample",
        ]

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return temp_softmax_cross_entropy(
            student, teacher, temperature=self.param.temperature, axis=self.class_axis
        )
