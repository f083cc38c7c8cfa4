"""DistillingLoss: a student learns from its teacher's softened outputs, and from the labels."""

from __future__ import annotations

from torch import Tensor

from ...losses.classification import softmax_cross_entropy
from ...losses.normalization import normalization_mode
from ...losses.soft_targets import focal_weights, soft_label_weights, soft_target_loss, standardized
from ...proto import caffe_pb2 as pb
from .. import formula
from ..base import Shape, register
from ..loss.loss import LabelledLayer, axis_of_same_logits
from ..shared.scheduled import check_setting, check_temperature, current, has_schedule

_WEIGHTS = pb.DistillingLossParameter


@register("DistillingLoss", param="distilling_loss_param", bottoms=(2, 3), origin="caffe_kd")
class DistillingLoss(LabelledLayer):
    """Penalise a student's outputs for differing from its teacher's, and from the labels.

    A label says that an image is a 2. A trained teacher says more: a 2, perhaps a 3, surely not a
    4. Its probabilities for the wrong classes are small but show which classes are similar. A
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
    0), so the gradient would shrink like 1 / T^2, and the soft term would become negligible.
    Multiplied by T^2 it keeps its size, and alpha means the same at every temperature.
    ``scale_by_temperature: false`` leaves the T^2 out of value and gradient.

    Fields of ``distilling_loss_param``:
        temperature: T, above 0, default 4. 1 leaves the probabilities alone, 2 to 20 are usual; the
            fewer units the student has, the lower.
        alpha: 0..1, the soft term's share, default 0.9. It needs the label.
        divergence: KL, the default, as above, 0 when the student agrees; CROSS_ENTROPY,
            ``-p_t * log p_s`` in its place, with the same gradient and the entropy of p_t as its
            least value; MSE, ``soft = sum of (z_s - z_t)^2 / (C * normaliser)``, which compares
            logits and uses neither T nor T^2; PSEUDO_LABEL,
            ``soft = sum of -log softmax(z_s)[argmax z_t] / normaliser``, the teacher's hard label
            as a label, without T and T^2 too.
        scale_by_temperature: whether to multiply by T^2, default true.
        axis: the axis of the C classes, default 1.
        standardize: whether the soft term's z_s and z_t are first scaled to mean 0 and deviation 1
            over the classes, so that the student need not match the teacher's scale; not with
            PSEUDO_LABEL. Its soft terms are smaller: loss_weights up to 9 are usual.
        hard_sample_weight: a factor w for the soft term of each position, without a gradient
            through it: EQUAL, the default, 1; FOCAL, ``(1 - p_s[y])^focal_gamma``, for positions
            whose label y the student misses; WEIGHTED_SOFT_LABEL,
            ``1 - exp(-log p_s[y] / log p_t[y])``, for those where it is worse than its teacher;
            both at T = 1. They need the label. The normaliser counts positions, not weights.
        focal_gamma: 0 or more, default 2.
        temperature_schedule, alpha_schedule: T and alpha by the solver's iteration, in place of
            temperature and alpha.

    Fields of ``loss_param``, for both terms: ``normalization`` (VALID by default: the positions
    that count; FULL, BATCH_SIZE and NONE as in SoftmaxWithLoss) and ``ignore_label``, whose
    positions give no loss, neither soft nor hard. For the hard term: ``label_smoothing``.

    Bottoms: the student's logits (N, C, ...), before any softmax; the teacher's logits, of the same
    shape; optionally labels, one for each position, whole numbers in 0..C-1 or ``ignore_label``.
    Top: the loss, a scalar, 0 or more, in nats (MSE: squared logits). The net's objective adds
    ``loss_weight`` (default 1) times it. No gradient goes to the teacher, unless
    ``propagate_down`` says so for its bottom.

    Raises:
        NetError: the logits differ in shape, the labels are not as many as the positions or out
            of range, a setting is out of range, one that needs the label is given without a label
            bottom, or standardize is used with PSEUDO_LABEL or fewer than 2 classes.

    Source: Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network,
        https://arxiv.org/abs/1503.02531. MSE: Ba, Caruana: Do Deep Nets Really Need to be Deep?,
        https://arxiv.org/abs/1312.6184. PSEUDO_LABEL: Touvron et al. 2021, DeiT,
        https://arxiv.org/abs/2012.12877. standardize: Sun et al. 2024,
        https://arxiv.org/abs/2403.01427. FOCAL: the factor of Lin et al. 2017,
        https://arxiv.org/abs/1708.02002. WEIGHTED_SOFT_LABEL: Zhou et al. 2021,
        https://arxiv.org/abs/2102.00650. BVLC Caffe has no such layer.

    Sample::

        layer {
          name: "kd" type: "DistillingLoss"
          bottom: "student/fc8"  # (4, 10)
          bottom: "teacher/fc8"  # (4, 10)
          bottom: "label"  # (4)
          top: "kd"  # scalar
          distilling_loss_param { temperature: 4 alpha: 0.9 }
        }
    """

    is_loss = True
    constant_bottoms = (1, 2)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        student, teacher, *labels = bottom_shapes
        self.class_axis = axis_of_same_logits(self, student, teacher)
        self._check_settings(student[self.class_axis])
        self.smoothing = self.label_smoothing()
        if labels:
            self.check_label_shape(student, labels[0], self.class_axis)
            if self.proto.loss_param.HasField("ignore_label"):
                self.ignore_label = self.proto.loss_param.ignore_label
        else:
            self._check_nothing_is_for_labels()
        self.normalization = normalization_mode(self.proto.loss_param)
        self.divergence = pb.DistillingLossParameter.Divergence.Name(self.param.divergence)

    def _check_settings(self, classes: int) -> None:
        param = self.param
        check_temperature(self)
        check_setting(self, "alpha", lambda a: 0 <= a <= 1, "must be in 0..1")
        if not param.focal_gamma >= 0:
            self.fail("focal_gamma must be at least 0", focal_gamma=param.focal_gamma)
        if not param.standardize:
            return
        if param.divergence == pb.DistillingLossParameter.PSEUDO_LABEL:
            self.fail(
                "standardize has no use with PSEUDO_LABEL, which asks only for the best class"
            )
        if classes < 2:
            self.fail("standardize needs at least 2 classes", classes=classes)

    def _check_nothing_is_for_labels(self) -> None:
        param, loss_param = self.param, self.proto.loss_param
        if param.HasField("alpha") or has_schedule(self, "alpha"):
            self.fail(
                "alpha weighs the soft term against the labels' and needs the label as third "
                "bottom. Add it, or drop alpha and use loss_weight",
                alpha=current(self, "alpha"),
                bottoms=2,
            )
        for_labels = {
            "ignore_label": loss_param.HasField("ignore_label"),
            "label_smoothing": bool(loss_param.label_smoothing),
            "hard_sample_weight": param.hard_sample_weight != _WEIGHTS.EQUAL,
        }
        for name, given in for_labels.items():
            if given:
                value = getattr(param if hasattr(param, name) else loss_param, name)
                self.fail(f"{name} needs the label as third bottom", **{name: value}, bottoms=2)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [()]

    def forward(self, student: Tensor, teacher: Tensor, label: Tensor | None = None) -> Tensor:
        if label is None:
            return self._soft(student, teacher.reshape(student.shape))
        soft, hard = self.terms(student, teacher, label).values()
        return soft + hard

    def terms(self, *bottoms: Tensor) -> dict[str, Tensor]:
        student, teacher, *given = bottoms
        if not given:
            return {}
        teacher, (label,) = teacher.reshape(student.shape), given
        labels = self.read_labels(label, student.shape[self.class_axis])
        hard = softmax_cross_entropy(
            student,
            labels,
            axis=self.class_axis,
            ignore_label=self.ignore_label,
            normalization=self.normalization,
            label_smoothing=self.smoothing,
        )
        alpha = current(self, "alpha")
        soft = self._soft(student, teacher, labels)
        return {"soft": alpha * soft, "hard": (1 - alpha) * hard}

    def explain(self, bottom_shapes: list[Shape]) -> list[str]:
        n = formula.divisor(self, bottom_shapes[0])
        student, teacher, *label = formula.names(self)
        lines = [self._soft_in_words(n, bottom_shapes[0][self.class_axis])]
        fit = ", each at mean 0 and deviation 1 over the classes" if self.param.standardize else ""
        lines.append(f"z_s = {student}, z_t = {teacher}{fit}")
        if self.param.hard_sample_weight != _WEIGHTS.EQUAL:
            kind = _WEIGHTS.HardSampleWeight.Name(self.param.hard_sample_weight)
            lines.append(f"w: the position's weight, {kind}")
        if not label:
            return [lines[0].replace("soft", "loss", 1), *lines[1:]]
        alpha = formula.number(self, "alpha")
        rest = f"(1 - {alpha})" if alpha == "alpha" else f"{1 - self.param.alpha:g}"
        smooth = f", label_smoothing {self.smoothing:g}" if self.smoothing else ""
        hard = f"hard = sum of -log softmax(z_s)[{label[0]}] / {n}{smooth}"
        return [f"loss = {alpha} * soft + {rest} * hard", *lines, hard]

    def _soft_in_words(self, n: str, classes: int) -> str:
        w = "w * " if self.param.hard_sample_weight != _WEIGHTS.EQUAL else ""
        if self.divergence == "MSE":
            return f"soft = sum of {w}(z_s - z_t)^2 / ({classes} * {n})"
        if self.divergence == "PSEUDO_LABEL":
            return f"soft = sum of {w}-log softmax(z_s)[argmax z_t] / {n}"
        t = formula.number(self, "temperature")
        square = f"{t}^2 * " if self.param.scale_by_temperature else ""
        inner = "p_t * (log p_t - log p_s)" if self.divergence == "KL" else "-p_t * log p_s"
        return f"soft = {square}sum of {w}{inner} / {n}, p = softmax(z / {t})"

    def _soft(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
        axis, valid, weights = self.class_axis, None, None
        if labels is not None:
            if self.ignore_label is not None:
                valid = labels.ne(self.ignore_label)
            weights = self._weights(student, teacher, labels, valid)
        if self.param.standardize:
            student, teacher = standardized(student, axis), standardized(teacher, axis)
        return soft_target_loss(
            student,
            teacher,
            temperature=current(self, "temperature"),
            divergence=self.divergence,
            scale_by_temperature=self.param.scale_by_temperature,
            axis=axis,
            valid=valid,
            weights=weights,
            normalization=self.normalization,
        )

    def _weights(
        self, student: Tensor, teacher: Tensor, labels: Tensor, valid: Tensor | None
    ) -> Tensor | None:
        """Return the factor of each position's soft term; None: 1."""
        if self.param.hard_sample_weight == _WEIGHTS.EQUAL:
            return None
        if valid is not None:
            labels = labels.where(valid, 0)
        if self.param.hard_sample_weight == _WEIGHTS.FOCAL:
            return focal_weights(student, labels, self.param.focal_gamma, self.class_axis)
        return soft_label_weights(student, teacher, labels, self.class_axis)
