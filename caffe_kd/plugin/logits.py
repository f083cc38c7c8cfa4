"""Losses on logits: soft targets, alone and with labels."""

from typing import Any, Callable, List, Optional, Sequence, Tuple

import numpy as np

from .base import Known, LossLayer, PluginLayer, Shape, flag, number, one_of
from .formulas import (
    Pair,
    correlation_loss,
    decoupled,
    hard_sample_weights,
    knowledge_distillation,
    label_loss,
    log_softmax,
    normalizer,
    soft_target_loss,
    softmax_gradient,
    standardized,
    standardized_gradient,
)

AXIS: Tuple[Callable[[str], Any], Any] = (int, 1)
_OF_LOSSES: Known = {
    "axis": AXIS,
    "ignore_label": (int, None),
    "normalization": (one_of("FULL", "VALID", "BATCH_SIZE", "NONE"), "VALID"),
}


class LogitLayer(PluginLayer):
    """A layer on logits, which it takes as (outer, classes, inner)."""

    def split_at_axis(self, shape: Sequence[int]) -> Tuple[int, int, int]:
        """Return the products of the sizes before, at and after the class axis."""
        axis, rank = self.settings["axis"], len(shape)
        if not -rank <= axis < rank:
            self.refuse(f"axis {axis} is out of range for a bottom of shape {tuple(shape)}")
        axis %= rank
        outer, inner = np.prod(shape[:axis], dtype=int), np.prod(shape[axis + 1 :], dtype=int)
        return int(outer), int(shape[axis]), int(inner)

    def logits(self, values: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """Return values in double precision, reshaped to the dims of a blob of the shape."""
        return np.asarray(values, dtype=np.float64).reshape(self.split_at_axis(tuple(shape)))


class SoftmaxWithTemperature(LogitLayer):
    """Softmax with a temperature: ``y = softmax(x / temperature)`` along ``axis``.

    Bottom: scores of any shape. Top: of the same shape, each 0..1, with sum 1 along the axis.

    Settings: ``temperature``, above 0, default 1; ``axis``, default 1.

    Raises:
        ValueError: a setting is out of range.

    Source: https://arxiv.org/abs/1503.02531, equation 1.
    """

    known = {"temperature": (number, 1.0), "axis": AXIS}

    def reshape(self, bottom: Any, top: Any) -> None:
        self.split_at_axis(tuple(bottom[0].shape))
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom: Any, top: Any) -> None:
        x = self.logits(bottom[0].data, bottom[0].shape)
        self.p = np.exp(log_softmax(x / self.settings["temperature"]))
        top[0].data[...] = self.p.reshape(top[0].data.shape)

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        if propagate_down[0]:
            given = self.logits(top[0].diff, bottom[0].shape)
            found = softmax_gradient(self.p, given, self.settings["temperature"])
            bottom[0].diff[...] = found.reshape(bottom[0].diff.shape)


class _LogitLoss(LogitLayer, LossLayer):
    """A loss on a student's logits, its teacher's, if there is one, and labels, the last bottom.

    Attributes:
        teachers: whether the second bottom is a teacher's logits.
    """

    bottoms: Sequence[int] = (2, 3)
    teachers = True

    def check_shapes(self, shapes: List[Shape]) -> None:
        student, others = shapes[0], shapes[1:]
        sizes = self.split_at_axis(student)
        if self.teachers and self.split_at_axis(others.pop(0)) != sizes:
            self.refuse(
                "student and teacher must have logits of the same shape. "
                f"Received: {student} and {shapes[1]}"
            )
        if others and np.prod(others[0], dtype=int) != sizes[0] * sizes[2]:
            self.refuse(
                "Number of labels must match number of predictions. "
                f"Received: labels {others[0]}, predictions {student}"
            )

    def loss(self, values: List[np.ndarray]) -> Tuple[float, List[np.ndarray]]:
        labelled = len(values) > 1 + self.teachers
        shape = values[0].shape
        logits = [self.logits(v, shape) for v in (values[:-1] if labelled else values)]
        outer, classes, inner = logits[0].shape
        label, valid = None, np.ones((outer, inner), dtype=bool)
        if labelled:
            label = values[-1].reshape(outer, inner).astype(int)
            if self.settings.get("ignore_label") is not None:
                valid = label != self.settings["ignore_label"]
            if self.uses_classes:
                self._check_labels(label[valid], classes)
        value, gradient = self.sum(logits, label, valid)
        divisor = normalizer(self.settings.get("normalization", "NONE"), valid)
        return value / divisor, [gradient / divisor]

    uses_classes = True  # whether labels must be classes; otherwise they only mark what is ignored

    def sum(self, logits: List[np.ndarray], label: Optional[np.ndarray], valid: np.ndarray) -> Pair:
        """Return the loss before its division, and its gradient to the student's logits."""
        raise NotImplementedError

    def _check_labels(self, labels: np.ndarray, classes: int) -> None:
        wrong = labels[(labels < 0) | (labels >= classes)]
        if wrong.size:
            self.refuse(
                "a label is out of range: labels must be ignore_label or integers in "
                f"0..{classes - 1}. Received: {wrong[0]}"
            )


class DistillingLoss(_LogitLoss):
    """Penalise a student whose outputs differ from its teacher's and from the labels.

    Two bottoms: ``soft / n``; three: ``(alpha * soft + (1 - alpha) * hard) / n``, where soft is
    ``soft_target_loss``, hard ``label_loss`` and n the normaliser.

    Bottoms: the student's logits (N, C, ...), before any softmax; the teacher's, of the same shape;
    optionally labels, one for each position. Top: the loss, of shape (1), in nats (MSE: squared
    logits). It needs ``loss_weight`` to be one. The teacher gets no gradient.

    Settings: ``temperature`` 4, ``alpha`` 0.9, ``divergence`` KL (or CROSS_ENTROPY, MSE,
    PSEUDO_LABEL), ``scale_by_temperature`` true, ``axis`` 1, ``normalization`` VALID (or FULL,
    BATCH_SIZE, NONE), ``ignore_label``, ``label_smoothing`` 0, ``standardize`` false,
    ``hard_sample_weight`` EQUAL (or FOCAL, WEIGHTED_SOFT_LABEL), ``focal_gamma`` 2.

    Raises:
        ValueError: shapes do not fit, a label is out of range, a setting is unknown or out of
            range, or one for the label is given without a label.

    Source: https://arxiv.org/abs/1503.02531; see this package's layer type of the same name.
    """

    known = dict(
        _OF_LOSSES,
        temperature=(number, 4.0),
        alpha=(number, None),
        divergence=(one_of("KL", "CROSS_ENTROPY", "MSE", "PSEUDO_LABEL"), "KL"),
        scale_by_temperature=(flag, True),
        label_smoothing=(number, 0.0),
        standardize=(flag, False),
        hard_sample_weight=(one_of("EQUAL", "FOCAL", "WEIGHTED_SOFT_LABEL"), "EQUAL"),
        focal_gamma=(number, 2.0),
    )

    def check_settings(self, bottoms: int) -> None:
        settings = self.settings
        if bottoms == 2:
            for name in ("alpha", "ignore_label", "label_smoothing", "hard_sample_weight"):
                if settings[name] != self.known[name][1]:
                    self.refuse(f"{name} needs the label as third bottom")
        if settings["alpha"] is None:
            settings["alpha"] = number("0.9")
        for name in ("alpha", "label_smoothing"):
            if not 0 <= settings[name] <= 1:
                self.refuse(f"{name} must be in 0..1. Received: {settings[name]}")
        self.refuse_below_0("focal_gamma")
        if settings["standardize"] and settings["divergence"] == "PSEUDO_LABEL":
            self.refuse("standardize has no effect with PSEUDO_LABEL")

    def check_shapes(self, shapes: List[Shape]) -> None:
        super().check_shapes(shapes)
        if self.settings["standardize"] and self.split_at_axis(shapes[0])[1] < 2:
            self.refuse("standardize needs at least 2 classes")

    def sum(self, logits: List[np.ndarray], label: Optional[np.ndarray], valid: np.ndarray) -> Pair:
        soft, soft_gradient = self._soft(logits, label, valid)
        if label is None:
            return soft, soft_gradient
        hard, gradient = label_loss(logits[0], label, valid, self.settings["label_smoothing"])
        alpha = self.settings["alpha"]
        return alpha * soft + (1 - alpha) * hard, alpha * soft_gradient + (1 - alpha) * gradient

    def _soft(
        self, logits: List[np.ndarray], label: Optional[np.ndarray], valid: np.ndarray
    ) -> Pair:
        names = ("temperature", "divergence", "scale_by_temperature")
        settings = {name: self.settings[name] for name in names}
        kind = self.settings["hard_sample_weight"]
        if label is not None and kind != "EQUAL":
            settings["weights"] = hard_sample_weights(
                logits[0], logits[1], np.where(valid, label, 0), kind, self.settings["focal_gamma"]
            )
        student, teacher = logits
        if not self.settings["standardize"]:
            return soft_target_loss(student, teacher, valid, **settings)
        student, teacher = standardized(student), standardized(teacher)
        soft, gradient = soft_target_loss(student, teacher, valid, **settings)
        return soft, standardized_gradient(logits[0], gradient)


class KnowledgeDistillation(_LogitLoss):
    """Penalise a student whose outputs differ from its teacher's, as public forks of Caffe do.

    ``loss = sum of p_t * (log p_t - log p_s) / n`` with ``p = softmax(z / T)`` and the normaliser
    n; the gradient to the student is ``T * (p_s - p_t) / n``, that of T^2 times the loss.

    Bottoms: the student's logits (N, C, ...); the teacher's, of the same shape; only with
    ignore_label, labels, one for each position. Top: the loss, of shape (1), in nats. It needs
    ``loss_weight`` to be one. The teacher gets no gradient.

    Settings: ``temperature`` 1, ``axis`` 1, ``normalization`` VALID (or FULL, BATCH_SIZE, NONE),
    ``ignore_label``.

    Raises:
        ValueError: shapes do not fit, a setting is unknown or out of range, or only one of
            label bottom and ignore_label is given.

    Source: wentianli/knowledge_distillation_caffe; see this package's layer type of the same name.
    """

    known = dict(_OF_LOSSES, temperature=(number, 1.0))
    uses_classes = False

    def check_settings(self, bottoms: int) -> None:
        if (bottoms == 3) != (self.settings["ignore_label"] is not None):
            self.refuse("ignore_label and a label as third bottom go together")

    def sum(self, logits: List[np.ndarray], label: Optional[np.ndarray], valid: np.ndarray) -> Pair:
        return knowledge_distillation(logits[0], logits[1], valid, self.settings["temperature"])


class DecoupledDistillingLoss(_LogitLoss):
    """Penalise a student that differs from its teacher on the label and among the other classes.

    With ``p = softmax(z / T)``, y the label, and q the other classes' p, normalized to sum 1::

        loss = T^2 * sum over positions of (alpha * KL((p_t[y], 1 - p_t[y]) || (p_s[y], 1 - p_s[y]))
                                            + beta * KL(q_t || q_s)) / n

    Bottoms: the student's logits (N, C, ...), C at least 2; the teacher's, of the same shape;
    labels. Top: the loss, of shape (1), in nats.

    Settings: ``temperature`` 4, ``alpha`` 1, ``beta`` 8, ``axis`` 1, ``normalization`` VALID (or
    FULL, BATCH_SIZE, NONE), ``ignore_label``. Source: https://arxiv.org/abs/2203.08679.
    """

    known = dict(_OF_LOSSES, temperature=(number, 4.0), alpha=(number, 1.0), beta=(number, 8.0))
    bottoms = (3,)

    def check_settings(self, bottoms: int) -> None:
        self.refuse_below_0("alpha", "beta")

    def check_shapes(self, shapes: List[Shape]) -> None:
        super().check_shapes(shapes)
        if self.split_at_axis(shapes[0])[1] < 2:
            self.refuse("needs at least 2 classes")

    def sum(self, logits: List[np.ndarray], label: Optional[np.ndarray], valid: np.ndarray) -> Pair:
        settings = {name: self.settings[name] for name in ("temperature", "alpha", "beta")}
        return decoupled(logits[0], logits[1], np.asarray(label), valid, **settings)


class DISTLoss(_LogitLoss):
    """Penalise a student whose probabilities do not correlate with its teacher's.

    With ``p = softmax(z / tau)`` and Pearson's correlation r::

        loss = tau^2 * (beta * mean over positions of (1 - r of the positions' classes)
                        + gamma * mean over classes of (1 - r of the classes' positions))

    Bottoms: the student's logits (N, C, ...) and the teacher's, of the same shape. Top: the loss,
    of shape (1).

    Settings: ``temperature`` 1, ``beta`` 1, ``gamma`` 1, ``axis`` 1. Source:
    https://arxiv.org/abs/2205.10536.
    """

    known = {
        "temperature": (number, 1.0),
        "beta": (number, 1.0),
        "gamma": (number, 1.0),
        "axis": AXIS,
    }
    bottoms = (2,)

    def check_settings(self, bottoms: int) -> None:
        self.refuse_below_0("beta", "gamma")

    def sum(self, logits: List[np.ndarray], label: Optional[np.ndarray], valid: np.ndarray) -> Pair:
        settings = self.settings
        outer, classes, inner = logits[0].shape
        p_s, p_t = (
            np.exp(log_softmax(z / settings["temperature"])).transpose(0, 2, 1).reshape(-1, classes)
            for z in logits
        )
        over_classes, to_classes = correlation_loss(p_s, p_t, 1)
        over_positions, to_positions = correlation_loss(p_s, p_t, 0)
        square = settings["temperature"] ** 2
        value = square * (settings["beta"] * over_classes + settings["gamma"] * over_positions)
        gradient = square * (settings["beta"] * to_classes + settings["gamma"] * to_positions)
        found = softmax_gradient(p_s, gradient, settings["temperature"])
        return value, found.reshape(outer, inner, classes).transpose(0, 2, 1)


class SoftmaxWithLoss(_LogitLoss):
    """Caffe's SoftmaxWithLoss with label smoothing: the target is ``(1 - e) * onehot + e / C``.

    Bottoms: logits (N, C, ...); labels, one for each position. Top: the loss, of shape (1).

    Settings: ``label_smoothing`` 0, ``axis`` 1, ``normalization`` VALID (or FULL, BATCH_SIZE,
    NONE), ``ignore_label``.
    """

    known = dict(_OF_LOSSES, label_smoothing=(number, 0.0))
    bottoms = (2,)
    teachers = False

    def check_settings(self, bottoms: int) -> None:
        if not 0 <= self.settings["label_smoothing"] <= 1:
            self.refuse("label_smoothing must be in 0..1")

    def sum(self, logits: List[np.ndarray], label: Optional[np.ndarray], valid: np.ndarray) -> Pair:
        smoothing = self.settings["label_smoothing"]
        return label_loss(logits[0], np.asarray(label), valid, smoothing)
