"""DISTLoss: a student's probabilities rank as its teacher's do."""

from __future__ import annotations

from torch import Tensor

from ...losses.correlation import dist
from .. import formula
from ..base import Layer, Shape, register
from ..loss.loss import axis_of_same_logits
from ..shared.scheduled import check_temperature, current


@register("DISTLoss", param="dist_loss_param", bottoms=2, origin="caffe_kd")
class DISTLoss(Layer):
    """Penalise a student whose probabilities do not correlate with its teacher's.

    With ``p = softmax(z / tau)`` and Pearson's correlation r::

        loss = tau^2 * (beta * mean over samples of (1 - r of the samples' classes)
                        + gamma * mean over classes of (1 - r of the classes' samples))

    It compares relations, not values, so that a small student can learn from a much stronger
    teacher.

    Fields of ``dist_loss_param``: beta and gamma (0 or more, default 1), temperature (tau, above 0,
    default 1) or temperature_schedule, axis (default 1).

    Bottoms: the student's logits (N, C, ...) and the teacher's, of the same shape; each position
    counts as a sample. Top: the loss, a scalar in 0..2 tau^2 (beta + gamma). Over a
    single sample a class has no correlation, which counts as 0. No gradient goes to the teacher
    unless ``propagate_down`` asks.

    Raises:
        NetError: the logits differ in shape, or a setting is out of range.

    Source: Huang et al. 2022, Knowledge Distillation from A Stronger Teacher,
        https://arxiv.org/abs/2205.10536.

    Sample::

        layer {
          name: "dist" type: "DISTLoss"
          bottom: "student/fc8"  # (4, 10)
          bottom: "teacher/fc8"  # (4, 10)
          top: "dist"  # scalar
          dist_loss_param { beta: 2 gamma: 2 }
        }
    """

    is_loss = True
    constant_bottoms = (1,)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        student, teacher = bottom_shapes
        self.class_axis = axis_of_same_logits(self, student, teacher)
        check_temperature(self)
        for field in ("beta", "gamma"):
            if not getattr(self.param, field) >= 0:
                self.fail(f"{field} must be at least 0", **{field: getattr(self.param, field)})

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [()]

    def forward(self, *bottoms: Tensor) -> Tensor:
        over_classes, over_samples = self.terms(*bottoms).values()
        return over_classes + over_samples

    def terms(self, *bottoms: Tensor) -> dict[str, Tensor]:
        student, teacher = bottoms
        over_classes, over_samples = dist(
            student,
            teacher.reshape(student.shape),
            temperature=current(self, "temperature"),
            axis=self.class_axis,
        )
        beta, gamma = self.param.beta, self.param.gamma
        return {"classes": beta * over_classes, "samples": gamma * over_samples}

    def explain(self, bottom_shapes: list[Shape]) -> list[str]:
        tau, beta, gamma = (formula.number(self, x) for x in ("temperature", "beta", "gamma"))
        student, teacher = formula.names(self)
        return [
            f"loss = {tau}^2 * ({beta} * mean over samples of (1 - r of the samples' classes)",
            f"          + {gamma} * mean over classes of (1 - r of the classes' samples))",
            f"r: Pearson's correlation of p_s and p_t, p = softmax(z / {tau})",
            f"z_s = {student}, z_t = {teacher}",
        ]
