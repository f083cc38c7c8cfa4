"""DistillingLoss: a student learns from its teacher's softened answers, and from the labels."""

from __future__ import annotations

import math

from torch import Tensor

from ..losses.classification import softmax_cross_entropy
from ..losses.normalization import extents, normalization_mode
from ..losses.soft_targets import soft_target_loss
from ..proto import caffe_pb2 as pb
from .base import Shape, register
from .loss import LabelledLayer


@register("DistillingLoss", param="distilling_loss_param", bottoms=(2, 3), origin="caffe_kd")
class DistillingLoss(LabelledLayer):
    """Punish a student for answering differently from its teacher, and differently from the labels.

    A label says that an image is a 2. A trained teacher says more: a 2, perhaps a 3, surely no 4.
    Its probabilities for the wrong classes are small but tell which classes look alike. A
    temperature T above 1 makes them large enough to learn from::

        p_t = softmax(z_t / T)        z_t: the teacher's logits
        p_s = softmax(z_s / T)        z_s: the student's logits

        soft = T^2 * sum of p_t * (log p_t - log p_s) / normaliser
        hard = SoftmaxWithLoss(z_s, label)              (at temperature 1)

        two bottoms:    loss = soft
        three bottoms:  loss = alpha * soft + (1 - alpha) * hard

    The sum runs over the classes and all positions that count.

    Why T^2: without it, the soft term's gradient to the student's logits is ``(p_s - p_t) / T``. At
    a high temperature ``p_s - p_t`` is itself about ``(z_s - z_t) / (C * T)`` (for logits of mean
    0), so the gradient would shrink like 1 / T^2, and the soft term fade next to the hard one.
    Multiplied by T^2 it keeps its size, and alpha means the same at every temperature.
    ``scale_by_temperature: false`` leaves the T^2 out of value and gradient.

    Fields of ``distilling_loss_param``:
        temperature: T, above 0, default 4. 1 leaves the probabilities alone, 2 to 20 are usual; the
            fewer units the student has, the lower.
        alpha: 0..1, the soft term's share, default 0.9. It needs the label.
        divergence: KL, the default, as above, 0 when the student agrees; CROSS_ENTROPY,
            ``-p_t * log p_s`` in its place, with the same gradient and the entropy of p_t as its
            least value; MSE, ``soft = sum of (z_s - z_t)^2 / (C * normaliser)``, which compares
            logits and uses neither T nor T^2.
        scale_by_temperature: whether the T^2 is there, default true.
        axis: where the C classes lie, default 1.

    Fields of ``loss_param``, for both terms: ``normalization`` (VALID by default: the positions
    that count; FULL, BATCH_SIZE and NONE as in SoftmaxWithLoss) and ``ignore_label``, whose
    positions give no loss, neither soft nor hard.

    Bottoms: the student's logits (N, C, ...), before any softmax; the teacher's logits, of the same
    shape; optionally labels, one for each position, whole numbers in 0..C-1 or ``ignore_label``.
    Top: the loss, a scalar, 0 or more, in nats (MSE: squared logits). The net's objective adds
    ``loss_weight`` (default 1) times it. No gradient goes to the teacher, unless
    ``propagate_down`` says so for its bottom.

    Raises:
        NetError: the logits differ in shape, the labels are not as many as the positions or no
            classes, the temperature is not above 0, alpha is outside 0..1, or alpha or ignore_label
            is set without a label bottom.

    Source: Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network,
        https://arxiv.org/abs/1503.02531. MSE: Ba, Caruana: Do Deep Nets Really Need to be Deep?,
        https://arxiv.org/abs/1312.6184. Original Caffe has no such layer.
    """

    is_loss = True
    constant_bottoms = (1, 2)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        student, teacher, *labels = bottom_shapes
        self.class_axis = self.axis(self.param.axis, len(student))
        self._check_logits(student, teacher)
        self._check_settings(with_label=bool(labels))
        if labels:
            self.check_label_shape(student, labels[0], self.class_axis)
            if self.proto.loss_param.HasField("ignore_label"):
                self.ignore_label = self.proto.loss_param.ignore_label
        self.normalization = normalization_mode(self.proto.loss_param)
        self.divergence = pb.DistillingLossParameter.Divergence.Name(self.param.divergence)

    def _check_logits(self, student: Shape, teacher: Shape) -> None:
        axis = self.class_axis
        if len(teacher) <= axis or student[axis] != teacher[axis]:
            fact = "student and teacher must have the same number of classes"
        elif extents(student, axis) != extents(teacher, axis):
            fact = "student and teacher must have logits of the same shape"
        else:
            return
        self.fail(f"{fact} (axis {axis})", student=student, teacher=teacher)

    def _check_settings(self, with_label: bool) -> None:
        param = self.param
        if not 0 < param.temperature < math.inf:
            self.fail("temperature must be above 0", temperature=param.temperature)
        if not 0 <= param.alpha <= 1:
            self.fail("alpha must be in 0..1", alpha=param.alpha)
        if with_label:
            return
        if param.HasField("alpha"):
            self.fail(
                "alpha weighs the soft term against the labels' and needs the label as third "
                "bottom. Add it, or drop alpha and use loss_weight",
                alpha=param.alpha,
                bottoms=2,
            )
        if self.proto.loss_param.HasField("ignore_label"):
            self.fail(
                "ignore_label needs the label as third bottom",
                ignore_label=self.proto.loss_param.ignore_label,
                bottoms=2,
            )

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [()]

    def forward(self, student: Tensor, teacher: Tensor, label: Tensor | None = None) -> Tensor:  # type: ignore[override]
        labels = None if label is None else self.read_labels(label, student.shape[self.class_axis])
        valid = None
        if labels is not None and self.ignore_label is not None:
            valid = labels.ne(self.ignore_label)
        soft = soft_target_loss(
            student,
            teacher.reshape(student.shape),
            temperature=self.param.temperature,
            divergence=self.divergence,
            scale_by_temperature=self.param.scale_by_temperature,
            axis=self.class_axis,
            valid=valid,
            normalization=self.normalization,
        )
        if labels is None:
            return soft
        hard = softmax_cross_entropy(
            student,
            labels,
            axis=self.class_axis,
            ignore_label=self.ignore_label,
            normalization=self.normalization,
        )
        alpha = self.param.alpha
        return alpha * soft + (1 - alpha) * hard
