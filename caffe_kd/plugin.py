"""Distillation for the original Caffe: this package's layers as Python layers of pycaffe.

A Caffe that was built with ``WITH_PYTHON_LAYER`` finds them as::

    layer {
      name: "distilling_loss"  type: "Python"
      bottom: "ip2"  bottom: "teacher/ip2"  bottom: "label"  top: "distilling_loss"
      loss_weight: 1            # a Python layer is no loss without it
      propagate_down: true  propagate_down: false  propagate_down: false
      python_param {
        module: "caffe_kd.plugin"  layer: "DistillingLoss"
        param_str: "temperature: 4 alpha: 0.9"
      }
    }

``param_str`` holds the settings as in prototxt, ``name: value``, without blocks, or as a dict,
``{'name': value}``; those that are not given have the defaults of the layer type of the same name.
``compose_kd -for caffe`` writes such layers.

The file stands alone: it needs numpy, and Python 3.6 or newer. Where this package itself is not
installed, copy it to ``caffe_kd/plugin.py`` (without an ``__init__.py``) in a folder on PYTHONPATH.
"""

# Without annotations from the future and the syntax of newer Pythons, which 3.6 lacks.

import math
import re
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

import numpy as np

try:
    from caffe import Layer  # type: ignore[import-not-found]
except ImportError as _error:
    _WHY = str(_error)
    try:
        from caffe_kd import Layer  # type: ignore[no-redef]
    except ImportError:

        class Layer:  # type: ignore[no-redef]
            """Stands in where there is no Caffe: a script may use the layers, a net cannot."""

            def __init__(self, *layer_param: Any) -> None:
                if layer_param:
                    raise ImportError("caffe_kd.plugin needs pycaffe on PYTHONPATH: " + _WHY)


# Caffe takes the logarithm of max(probability, FLT_MIN).
_LEAST_LOG = math.log(np.finfo(np.float32).tiny)

_SETTING = re.compile(
    r"(?P<quote>[\"']?)(?P<name>\w+)(?P=quote)\s*:\s*"
    r"(?:(?P<mark>[\"'])(?P<quoted>.*?)(?P=mark)|(?P<plain>[^\s,;\"']+))[\s,;]*"
)

_Result = Tuple[float, np.ndarray]
_Known = Dict[str, Tuple[Callable[[str], Any], Any]]  # what reads a setting, and its default


# ---- the formulas: logits of shape (outer, classes, inner), labels (outer, inner)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return log softmax(logits) along axis 1."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def softmax_gradient(p: np.ndarray, gradient: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return the gradient to x of p = softmax(x / temperature) along axis 1, given that to p."""
    along = (p * gradient).sum(axis=1, keepdims=True)
    return p * (gradient - along) / temperature


def normalizer(mode: str, valid: np.ndarray) -> float:
    """Return what a sum of losses is divided by, at least 1.

    VALID: the true values of ``valid``, (outer, inner); FULL: all; BATCH_SIZE: outer; NONE: 1.
    """
    counts = {"VALID": valid.sum(), "FULL": valid.size, "BATCH_SIZE": len(valid), "NONE": 1}
    return max(float(counts[mode]), 1.0)


def soft_target_loss(
    student: np.ndarray,
    teacher: np.ndarray,
    valid: np.ndarray,
    temperature: float = 4.0,
    divergence: str = "KL",
    scale_by_temperature: bool = True,
) -> _Result:
    """Return how far a student is from its teacher, and the gradient to the student's logits.

    The sums over all positions of, with p = softmax(z / T) and C classes:

    KL: ``T^2 * p_t * (log p_t - log p_s)``; CROSS_ENTROPY: ``T^2 * -p_t * log p_s``; MSE:
    ``(z_s - z_t)^2 / C``; PSEUDO_LABEL: ``-log softmax(z_s)[argmax z_t]``.
    """
    keep = valid[:, None, :]
    if divergence == "MSE":
        difference = np.where(keep, student - teacher, 0.0)
        classes = student.shape[1]
        return float((difference**2).sum() / classes), 2 * difference / classes
    if divergence == "PSEUDO_LABEL":
        log_s, target = log_softmax(student), one_hot(teacher.argmax(axis=1), teacher.shape[1])
        losses, gradient = np.where(target > 0, -log_s, 0.0), np.exp(log_s) - target
        factor = 1.0
    else:
        log_s, log_t = log_softmax(student / temperature), log_softmax(teacher / temperature)
        p_t = np.exp(log_t)
        losses = p_t * (log_t - log_s if divergence == "KL" else -log_s)
        factor = temperature**2 if scale_by_temperature else 1.0
        gradient = (np.exp(log_s) - p_t) / temperature
    value = np.where(keep, losses, 0.0).sum() * factor
    return float(value), np.where(keep, gradient, 0.0) * factor


def label_loss(
    student: np.ndarray, label: np.ndarray, valid: np.ndarray, label_smoothing: float = 0.0
) -> _Result:
    """Return SoftmaxWithLoss as a sum over all positions, and the gradient to the logits.

    A position gives at most 87.3365 = -log(FLT_MIN); the gradient is not cut off with it. With
    smoothing e the target is ``(1 - e) * onehot + e / C``.
    """
    keep, classes = valid[:, None, :], student.shape[1]
    log_p = log_softmax(student)
    target = one_hot(np.where(valid, label, 0), classes)
    losses = np.minimum(-(log_p * target).sum(axis=1), -_LEAST_LOG)
    spread = np.minimum(-log_p.mean(axis=1), -_LEAST_LOG)
    losses = (1 - label_smoothing) * losses + label_smoothing * spread
    target = (1 - label_smoothing) * target + label_smoothing / classes
    value = np.where(valid, losses, 0.0).sum()
    return float(value), np.where(keep, np.exp(log_p) - target, 0.0)


def knowledge_distillation(
    student: np.ndarray, teacher: np.ndarray, valid: np.ndarray, temperature: float = 1.0
) -> _Result:
    """Return the divergence of softened answers, and the gradient of T^2 times it.

    ``sum of p_t * (log p_t - log p_s)``, each logarithm that of at least FLT_MIN;
    ``T * (p_s - p_t)``.
    """
    keep = valid[:, None, :]
    log_s, log_t = log_softmax(student / temperature), log_softmax(teacher / temperature)
    p_t = np.exp(log_t)
    losses = p_t * (np.maximum(log_t, _LEAST_LOG) - np.maximum(log_s, _LEAST_LOG))
    gradient = temperature * (np.exp(log_s) - p_t)
    return float(np.where(keep, losses, 0.0).sum()), np.where(keep, gradient, 0.0)


def one_hot(classes: np.ndarray, count: int) -> np.ndarray:
    """Return 1 where the class is that of (outer, inner), else 0: (outer, count, inner)."""
    return (classes[:, None, :] == np.arange(count)[None, :, None]).astype(float)


# ---- the settings


def number(text: str) -> float:
    """Return a number as a prototxt's float field would hold it."""
    return float(np.float32(text))


def flag(text: str) -> bool:
    """Return true or false."""
    return {"true": True, "True": True, "false": False, "False": False}[text]


def one_of(*names: str) -> Callable[[str], str]:
    """Return a function that lets only these names pass."""
    return lambda text: names[names.index(text)]


def read_settings(param_str: str, known: _Known) -> Any:
    """Return the settings of a ``param_str`` by name, and the defaults of those not given.

    Args:
        param_str: ``name: value``, any number of times; commas between them are allowed, and what
            makes a dict of Python or JSON of it.
        known: by name, what reads the value and its default.

    Raises:
        ValueError: the text is not of this form, or a name or value is unknown.
    """
    settings = {name: default for name, (_, default) in known.items()}
    given = set()
    at, text = 0, param_str.strip()
    if text[:1] == "{" and text[-1:] == "}":
        text = text[1:-1].strip()
    while at < len(text):
        match = _SETTING.match(text, at)
        if match is None:
            raise ValueError(f"param_str must be 'name: value ...'. Received: {text[at:]!r}")
        name = match.group("name")
        value = match.group("quoted" if match.group("mark") else "plain")
        if name not in known:
            raise ValueError(f"param_str: no setting '{name}'. Known: {', '.join(known)}")
        if name in given:
            raise ValueError(f"param_str: '{name}' is given twice")
        try:
            settings[name] = known[name][0](value)
        except (KeyError, ValueError):
            raise ValueError(f"param_str: {name} cannot be '{value}'") from None
        given.add(name)
        at = match.end()
    return settings


_AXIS = (int, 1)
_OF_LOSSES: _Known = {
    "axis": _AXIS,
    "ignore_label": (int, None),
    "normalization": (one_of("FULL", "VALID", "BATCH_SIZE", "NONE"), "VALID"),
}


# ---- the layers


class _LogitLayer(Layer):  # type: ignore[misc]  # whichever Caffe's it is
    """What the layers below have in common: settings, and logits as (outer, classes, inner)."""

    known: _Known = {}
    bottoms: Sequence[int] = (1,)

    def setup(self, bottom: Any, top: Any) -> None:
        if len(bottom) not in self.bottoms or len(top) != 1:
            count = " or ".join(map(str, self.bottoms))
            self.refuse(f"it takes {count} bottom{'s' if count != '1' else ''} and one top")
        try:
            self.settings = read_settings(self.param_str, self.known)
        except ValueError as error:
            self.refuse(str(error))
        if not 0 < self.settings["temperature"] < math.inf:
            self.refuse("temperature must be above 0")

    def refuse(self, fact: str) -> None:
        """Raise a ValueError that names the layer's class."""
        raise ValueError(f"{type(self).__name__}: {fact}")

    def extents(self, shape: Sequence[int]) -> Tuple[int, int, int]:
        """Return the products of the extents before, at and after the class axis."""
        axis, rank = self.settings["axis"], len(shape)
        if not -rank <= axis < rank:
            self.refuse(f"axis {axis} is out of range for a bottom of shape {tuple(shape)}")
        axis %= rank
        outer, inner = np.prod(shape[:axis], dtype=int), np.prod(shape[axis + 1 :], dtype=int)
        return int(outer), int(shape[axis]), int(inner)

    def logits(self, values: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """Return values in double precision, in the extents that a blob of the shape has."""
        return np.asarray(values, dtype=np.float64).reshape(self.extents(tuple(shape)))


class SoftmaxWithTemperature(_LogitLayer):
    """Turn scores into softened probabilities: ``y = softmax(x / temperature)`` along ``axis``.

    Bottom: scores of any shape. Top: of the same shape, each 0..1, with sum 1 along the axis.

    Settings: ``temperature``, above 0, default 1; ``axis``, default 1.

    Raises:
        ValueError: a setting is out of range.

    Source: https://arxiv.org/abs/1503.02531, equation 1.
    """

    known = {"temperature": (number, 1.0), "axis": _AXIS}

    def reshape(self, bottom: Any, top: Any) -> None:
        self.extents(tuple(bottom[0].shape))
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


class _TeacherLoss(_LogitLayer):
    """A loss on a student's and its teacher's logits; there is no gradient to the teacher."""

    bottoms = (2, 3)

    def reshape(self, bottom: Any, top: Any) -> None:
        student, teacher = tuple(bottom[0].shape), tuple(bottom[1].shape)
        extents = self.extents(student)
        if self.extents(teacher) != extents:
            self.refuse(
                "student and teacher must have logits of the same shape. "
                f"Received: {student} and {teacher}"
            )
        if len(bottom) == 3 and np.prod(bottom[2].shape, dtype=int) != extents[0] * extents[2]:
            self.refuse(
                "Number of labels must match number of predictions. "
                f"Received: labels {tuple(bottom[2].shape)}, predictions {student}"
            )
        top[0].reshape(1)

    def forward(self, bottom: Any, top: Any) -> None:
        student, teacher = (self.logits(bottom[i].data, bottom[0].shape) for i in (0, 1))
        outer, _, inner = student.shape
        label, valid = None, np.ones((outer, inner), dtype=bool)
        if len(bottom) == 3:
            label = np.asarray(bottom[2].data).reshape(outer, inner).astype(int)
            if self.settings["ignore_label"] is not None:
                valid = label != self.settings["ignore_label"]
        value, gradient = self.loss(student, teacher, label, valid)
        divisor = normalizer(self.settings["normalization"], valid)
        top[0].data[...] = value / divisor
        self.gradient = gradient / divisor

    def loss(
        self,
        student: np.ndarray,
        teacher: np.ndarray,
        label: Optional[np.ndarray],
        valid: np.ndarray,
    ) -> _Result:
        """Return the loss before its division, and its gradient to the student's logits."""
        raise NotImplementedError

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        for index in range(1, len(bottom)):
            if propagate_down[index]:
                bottom[index].diff[...] = 0
        if propagate_down[0]:
            found = self.gradient * float(top[0].diff.reshape(-1)[0])  # the loss_weight
            bottom[0].diff[...] = found.reshape(bottom[0].diff.shape)


class DistillingLoss(_TeacherLoss):
    """Punish a student for answering differently from its teacher, and from the labels.

    Two bottoms: ``soft / n``; three: ``(alpha * soft + (1 - alpha) * hard) / n``, where soft is
    ``soft_target_loss``, hard ``label_loss`` and n the normaliser.

    Bottoms: the student's logits (N, C, ...), before any softmax; the teacher's, of the same shape;
    optionally labels, one for each position. Top: the loss, of shape (1), in nats (MSE: squared
    logits). It needs ``loss_weight`` to be one. The teacher gets no gradient.

    Settings: ``temperature`` 4, ``alpha`` 0.9, ``divergence`` KL (or CROSS_ENTROPY, MSE,
    PSEUDO_LABEL), ``scale_by_temperature`` true, ``axis`` 1, ``normalization`` VALID (or FULL,
    BATCH_SIZE, NONE), ``ignore_label``, ``label_smoothing`` 0.

    Raises:
        ValueError: shapes do not fit, a label is no class, a setting is unknown or out of range, or
            one that is for the label is given without it.

    Source: https://arxiv.org/abs/1503.02531; see this package's layer type of the same name.
    """

    known = dict(
        _OF_LOSSES,
        temperature=(number, 4.0),
        alpha=(number, None),
        divergence=(one_of("KL", "CROSS_ENTROPY", "MSE", "PSEUDO_LABEL"), "KL"),
        scale_by_temperature=(flag, True),
        label_smoothing=(number, 0.0),
    )

    def setup(self, bottom: Any, top: Any) -> None:
        super().setup(bottom, top)
        settings = self.settings
        if len(bottom) == 2:
            for name in ("alpha", "ignore_label", "label_smoothing"):
                if settings[name] != self.known[name][1]:
                    self.refuse(f"{name} needs the label as third bottom")
        if settings["alpha"] is None:
            settings["alpha"] = number("0.9")
        for name in ("alpha", "label_smoothing"):
            if not 0 <= settings[name] <= 1:
                self.refuse(f"{name} must be in 0..1. Received: {settings[name]}")

    def loss(
        self,
        student: np.ndarray,
        teacher: np.ndarray,
        label: Optional[np.ndarray],
        valid: np.ndarray,
    ) -> _Result:
        names = ("temperature", "divergence", "scale_by_temperature")
        settings = {name: self.settings[name] for name in names}
        soft, soft_gradient = soft_target_loss(student, teacher, valid, **settings)
        if label is None:
            return soft, soft_gradient
        self._check_labels(label[valid], student.shape[1])
        hard, gradient = label_loss(student, label, valid, self.settings["label_smoothing"])
        alpha = self.settings["alpha"]
        return alpha * soft + (1 - alpha) * hard, alpha * soft_gradient + (1 - alpha) * gradient

    def _check_labels(self, labels: np.ndarray, classes: int) -> None:
        wrong = labels[(labels < 0) | (labels >= classes)]
        if wrong.size:
            self.refuse(
                "a label is no class: labels must be ignore_label or integers in "
                f"0..{classes - 1}. Received: {wrong[0]}"
            )


class KnowledgeDistillation(_TeacherLoss):
    """Punish a student for answering otherwise than its teacher, as public forks of Caffe do.

    ``loss = sum of p_t * (log p_t - log p_s) / n`` with ``p = softmax(z / T)`` and the normaliser
    n; the gradient to the student is ``T * (p_s - p_t) / n``, that of T^2 times the loss.

    Bottoms: the student's logits (N, C, ...); the teacher's, of the same shape; with ignore_label,
    and not without, labels, one for each position. Top: the loss, of shape (1), in nats. It needs
    ``loss_weight`` to be one. The teacher gets no gradient.

    Settings: ``temperature`` 1, ``axis`` 1, ``normalization`` VALID (or FULL, BATCH_SIZE, NONE),
    ``ignore_label``.

    Raises:
        ValueError: shapes do not fit, a setting is unknown or out of range, or label bottom and
            ignore_label are not both there.

    Source: wentianli/knowledge_distillation_caffe; see this package's layer type of the same name.
    """

    known = dict(_OF_LOSSES, temperature=(number, 1.0))

    def setup(self, bottom: Any, top: Any) -> None:
        super().setup(bottom, top)
        if (len(bottom) == 3) != (self.settings["ignore_label"] is not None):
            self.refuse("ignore_label and a label as third bottom go together")

    def loss(
        self,
        student: np.ndarray,
        teacher: np.ndarray,
        label: Optional[np.ndarray],
        valid: np.ndarray,
    ) -> _Result:
        return knowledge_distillation(student, teacher, valid, self.settings["temperature"])
