"""KnowledgeDistillation: distillation as in public forks of Caffe."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...losses.fork_distillation import knowledge_distillation
from ...losses.normalization import normalization_mode, split_at_axis
from .. import formula
from ..base import Context, Shape, register
from ..loss.loss import LabelledLayer

_SPELLINGS = ("knowledge_distillation_param", "Knowledge_distillation_param")


@register("KnowledgeDistillation", param=_SPELLINGS[0], bottoms=(2, 4), origin="several forks")
class KnowledgeDistillation(LabelledLayer):
    """Penalise a student's probabilities for differing from its teacher's.

    With ``p = softmax(z / T)`` along ``axis`` (softmax_param, default 1)::

        loss = sum of p_t * (log p_t - log p_s) / normaliser
        gradient to the student = T * (p_s - p_t) / normaliser

    The gradient is that of T^2 times the loss, so that it keeps its size at every T, while the
    value shrinks as T grows. DistillingLoss has the T^2 in both. Logarithms are of at least
    FLT_MIN; the gradient is not clipped.

    Fields of ``knowledge_distillation_param``, which one fork spells Knowledge_distillation_param:
        temperature: T, above 0, default 1.
        filter_teacher_pred, filter_top_k: with the fourth bottom, the filter_top_k positions of
            each sample with its largest values get no gradient. The loss counts them.

    Fields of ``loss_param``: ``normalization`` as in SoftmaxWithLoss, by default VALID, the
    positions that count; ``ignore_label``, which requires a label bottom.

    Bottoms: the student's logits (N, C, ...); the teacher's, of the same shape; with ignore_label,
    and only then, labels, one for each position, of which those equal to it give no loss;
    optionally the teacher's own loss, one value for each position.
    Top: the loss, a scalar in nats, 0 or more. No gradient goes to the teacher.

    Raises:
        NetError: the logits differ in shape, the labels or the teacher's losses are not as many as
            the positions, only one of label bottom and ignore_label is given, the temperature is
            not above 0, or a filter lacks what it needs.

    Source: https://arxiv.org/abs/1503.02531; wentianli/knowledge_distillation_caffe, and for the
        filter kfxw's version of it in caffe-1612. The latter ignores ignore_label if there is a
        fourth bottom; here it applies.

    Sample::

        layer {
          name: "kd"
          type: "KnowledgeDistillation"
          bottom: "student/fc8"  # (4, 10)
          bottom: "teacher/fc8"  # (4, 10)
          top: "kd"  # scalar
          knowledge_distillation_param { temperature: 4 }
        }
    """

    is_loss = True
    constant_bottoms = (1, 2, 3)

    def __init__(self, proto: Any, phase: int, context: Context) -> None:
        super().__init__(proto, phase, context)
        spelt = [name for name in _SPELLINGS if proto.HasField(name)]
        if len(spelt) > 1:
            self.fail(f"either {spelt[0]} or {spelt[1]} can be given, not both")
        if spelt:
            self.settings = getattr(proto, spelt[0])

    def setup(self, bottom_shapes: list[Shape]) -> None:
        student, teacher, *others = bottom_shapes
        self.class_axis = self.axis(self.proto.softmax_param.axis, len(student))
        self._check_logits(student, teacher)
        if not 0 < self.param.temperature < math.inf:
            self.fail("temperature must be above 0", temperature=self.param.temperature)
        loss_param = self.proto.loss_param
        self.normalization = normalization_mode(loss_param)
        if bool(others) != loss_param.HasField("ignore_label"):
            self.fail(
                "ignore_label is only valid when label inputs are given as bottom[2], and they "
                "only with it",
                bottoms=len(bottom_shapes),
            )
        if others:
            self.check_label_shape(student, others[0], self.class_axis)
        self._check_filter(student, others[1:])

    def _check_logits(self, student: Shape, teacher: Shape) -> None:
        axis = self.class_axis
        if len(teacher) <= axis or split_at_axis(student, axis) != split_at_axis(teacher, axis):
            self.fail(
                "Outer number, inner number and classes of soft labels must match those of "
                f"predictions (axis {axis})",
                student=student,
                teacher=teacher,
            )

    def _check_filter(self, student: Shape, teachers_loss: list[Shape]) -> None:
        if not self.param.filter_teacher_pred:
            return
        if not teachers_loss:
            self.fail(
                "filter_teacher_pred needs the teacher's loss as fourth bottom",
                bottoms=len(self.proto.bottom),
            )
        outer, _, inner = split_at_axis(student, self.class_axis)
        if math.prod(teachers_loss[0]) != outer * inner:
            self.fail(
                "the fourth bottom must have one value for each position",
                student=student,
                bottom3=teachers_loss[0],
            )
        if self.param.filter_top_k > inner:
            self.fail(
                "filter_top_k exceeds the positions of a sample",
                filter_top_k=self.param.filter_top_k,
                positions=inner,
            )

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [()]

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        label: Tensor | None = None,
        teachers_loss: Tensor | None = None,
    ) -> Tensor:
        valid = selected = None
        if label is not None:
            valid = label.long().ne(self.proto.loss_param.ignore_label)
        if teachers_loss is not None and self.param.filter_teacher_pred:
            selected = self._selected(teachers_loss, student)
        return knowledge_distillation(
            student,
            teacher.reshape(student.shape),
            temperature=self.param.temperature,
            axis=self.class_axis,
            valid=valid,
            selected=selected,
            normalization=self.normalization,
        )

    def explain(self, bottom_shapes: list[Shape]) -> list[str]:
        n, t = formula.divisor(self, bottom_shapes[0]), formula.number(self, "temperature")
        student, teacher, *_ = formula.names(self)
        return [
            f"loss = sum of p_t * (log p_t - log p_s) / {n}, p = softmax(z / {t})",
            f"gradient to z_s = {t} * (p_s - p_t) / {n}, that of {t}^2 * loss",
            f"z_s = {student}, z_t = {teacher}",
        ]

    def _selected(self, teachers_loss: Tensor, student: Tensor) -> Tensor:
        """Return which positions get a gradient: all but those with the largest values."""
        outer, _, inner = split_at_axis(tuple(student.shape), self.class_axis)
        losses = teachers_loss.reshape(outer, inner)
        left_out = losses.topk(self.param.filter_top_k, dim=1).indices
        return torch.ones_like(losses, dtype=torch.bool).scatter(1, left_out, False)
