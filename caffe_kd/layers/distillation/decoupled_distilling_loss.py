"""DecoupledDistillingLoss: the label's probability and those of the other classes, weighted."""

from __future__ import annotations

from torch import Tensor

from ...losses.decoupled import decoupled_kd
from ...losses.normalization import normalization_mode
from .. import formula
from ..base import Shape, register
from ..loss.loss import LabelledLayer, axis_of_same_logits
from ..shared.scheduled import check_temperature, current


@register(
    "DecoupledDistillingLoss",
    param="decoupled_distilling_loss_param",
    bottoms=3,
    origin="caffe_kd",
)
class DecoupledDistillingLoss(LabelledLayer):
    """Penalise a student for differing from its teacher, about the label and among other classes.

    With ``p = softmax(z / T)``, y the label, and q the other classes' p, made to sum 1::

        loss = T^2 * sum over positions of (alpha * KL((p_t[y], 1 - p_t[y]) || (p_s[y], 1 - p_s[y]))
                                            + beta * KL(q_t || q_s)) / normaliser

    In DistillingLoss the second term has the weight ``1 - p_t[y]``: the more confident the teacher,
    the less it contributes about similar classes. Here beta sets its weight. The labels' loss is
    not included: use a SoftmaxWithLoss beside it.

    Fields of ``decoupled_distilling_loss_param``: temperature (T, above 0, default 4) or
    temperature_schedule, alpha (0 or more, default 1), beta (0 or more, default 8), axis (default
    1). Of ``loss_param``: normalization and ignore_label, as in SoftmaxWithLoss. Its first
    gradients are large: the paper's warm-up, min(epoch / 20, 1), is ``loss_weight_schedule
    { point { iter: 0 value: 0 } point { iter: <20 epochs> value: 1 } }``.

    Bottoms: the student's logits (N, C, ...), C at least 2; the teacher's, of the same shape;
    labels, one for each position, whole numbers in 0..C-1 or ``ignore_label``. Top: the loss, a
    scalar, 0 or more, in nats. No gradient goes to the teacher unless ``propagate_down`` asks.

    Raises:
        NetError: the logits differ in shape or have fewer than 2 classes, the labels are not as
            many as the positions or out of range, or a setting is out of range.

    Source: Zhao et al. 2022, Decoupled Knowledge Distillation, https://arxiv.org/abs/2203.08679.

    Sample::

        layer {
          name: "dkd" type: "DecoupledDistillingLoss"
          bottom: "student/fc8"  # (4, 10)
          bottom: "teacher/fc8"  # (4, 10)
          bottom: "label"  # (4)
          top: "dkd"  # scalar
          decoupled_distilling_loss_param { temperature: 4 alpha: 1 beta: 8 }
        }
    """

    is_loss = True
    constant_bottoms = (1, 2)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        student, teacher, label = bottom_shapes
        self.class_axis = axis_of_same_logits(self, student, teacher)
        self.check_label_shape(student, label, self.class_axis)
        if student[self.class_axis] < 2:
            self.fail("needs at least 2 classes", student=student)
        check_temperature(self)
        for field in ("alpha", "beta"):
            if not getattr(self.param, field) >= 0:
                self.fail(f"{field} must be at least 0", **{field: getattr(self.param, field)})
        loss_param = self.proto.loss_param
        if loss_param.HasField("ignore_label"):
            self.ignore_label = loss_param.ignore_label
        self.normalization = normalization_mode(loss_param)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [()]

    def forward(self, *bottoms: Tensor) -> Tensor:
        target, others = self.terms(*bottoms).values()
        return target + others

    def terms(self, *bottoms: Tensor) -> dict[str, Tensor]:
        student, teacher, label = bottoms
        target, others = decoupled_kd(
            student,
            teacher,
            self.read_labels(label, student.shape[self.class_axis]),
            temperature=current(self, "temperature"),
            axis=self.class_axis,
            ignore_label=self.ignore_label,
            normalization=self.normalization,
        )
        return {"target": self.param.alpha * target, "others": self.param.beta * others}

    def explain(self, bottom_shapes: list[Shape]) -> list[str]:
        n = formula.divisor(self, bottom_shapes[0])
        t, alpha, beta = (formula.number(self, name) for name in ("temperature", "alpha", "beta"))
        student, teacher, label = formula.names(self)
        return [
            f"loss = {t}^2 * sum of ({alpha} * KL((p_t[y], 1 - p_t[y]) || (p_s[y], 1 - p_s[y]))",
            f"                   + {beta} * KL(q_t || q_s)) / {n}",
            f"p = softmax(z / {t}), q: of the other classes, made to sum 1",
            f"z_s = {student}, z_t = {teacher}, y = {label}",
        ]
