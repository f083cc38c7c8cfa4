"""The formulas of the losses on logits, each with its gradient.

Logits have the shape (outer, classes, inner), labels (outer, inner).
"""

import math
from typing import Optional, Tuple

import numpy as np

# Caffe takes the logarithm of max(probability, FLT_MIN).
_LEAST_LOG = math.log(np.finfo(np.float32).tiny)
# These keep quotients finite, as in the published code.
_LEAST_DEVIATION = 1e-7
_LEAST_ENTROPY = 1e-7
_LEAST_PRODUCT = 1e-8

Pair = Tuple[float, np.ndarray]  # a loss, and its gradient to the student's logits


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return log softmax(logits) along axis 1."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def softmax_gradient(p: np.ndarray, gradient: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return the gradient to x of p = softmax(x / temperature) along axis 1, given that to p."""
    along = (p * gradient).sum(axis=1, keepdims=True)
    return p * (gradient - along) / temperature


def normalizer(mode: str, valid: np.ndarray) -> float:
    """Return the divisor of a sum of losses, at least 1.

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
    weights: Optional[np.ndarray] = None,
) -> Pair:
    """Return the distance of a student to its teacher, and the gradient to the student's logits.

    The sums over all positions of, with p = softmax(z / T) and C classes:

    KL: ``T^2 * p_t * (log p_t - log p_s)``; CROSS_ENTROPY: ``T^2 * -p_t * log p_s``; MSE:
    ``(z_s - z_t)^2 / C``; PSEUDO_LABEL: ``-log softmax(z_s)[argmax z_t]``; each times the
    position's weight, if any.
    """
    factor = 1.0
    if divergence == "MSE":
        factor = 1.0 / student.shape[1]
        losses, gradient = (student - teacher) ** 2, 2 * (student - teacher)
    elif divergence == "PSEUDO_LABEL":
        log_s, target = log_softmax(student), one_hot(teacher.argmax(axis=1), teacher.shape[1])
        losses, gradient = np.where(target > 0, -log_s, 0.0), np.exp(log_s) - target
    else:
        log_s, log_t = log_softmax(student / temperature), log_softmax(teacher / temperature)
        p_t = np.exp(log_t)
        losses = p_t * (log_t - log_s if divergence == "KL" else -log_s)
        factor = temperature**2 if scale_by_temperature else 1.0
        gradient = (np.exp(log_s) - p_t) / temperature
    if weights is not None:
        losses, gradient = losses * weights[:, None, :], gradient * weights[:, None, :]
    keep = valid[:, None, :]
    value = np.where(keep, losses, 0.0).sum() * factor
    return float(value), np.where(keep, gradient, 0.0) * factor


def standardized(logits: np.ndarray) -> np.ndarray:
    """Return logits with mean 0 and deviation 1 (its divisor is C - 1) over the classes."""
    centred = logits - logits.mean(axis=1, keepdims=True)
    return centred / (logits.std(axis=1, ddof=1, keepdims=True) + _LEAST_DEVIATION)


def standardized_gradient(logits: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Return the gradient to the logits, given that to ``standardized(logits)``."""
    centred = logits - logits.mean(axis=1, keepdims=True)
    deviation = logits.std(axis=1, ddof=1, keepdims=True)
    divisor = deviation + _LEAST_DEVIATION
    slope = (gradient * centred).sum(axis=1, keepdims=True) / divisor**2
    slope = slope / np.where(deviation > 0, deviation, 1.0) / (logits.shape[1] - 1)
    return (gradient - gradient.mean(axis=1, keepdims=True)) / divisor - slope * centred


def hard_sample_weights(
    student: np.ndarray, teacher: np.ndarray, label: np.ndarray, kind: str, gamma: float = 2.0
) -> np.ndarray:
    """Return the weight of each position (outer, inner), at T = 1.

    FOCAL: ``(1 - p_s[y])^gamma``; WEIGHTED_SOFT_LABEL: ``1 - exp(-L_s / (L_t + 1e-7))`` with
    ``L = -log p[y]``.
    """
    of_student, of_teacher = (_at_label(log_softmax(z), label) for z in (student, teacher))
    if kind == "FOCAL":
        weights: np.ndarray = np.maximum(1 - np.exp(of_student), 0) ** gamma
        return weights
    return 1 - np.exp(of_student / (_LEAST_ENTROPY - of_teacher))


def label_loss(
    student: np.ndarray, label: np.ndarray, valid: np.ndarray, label_smoothing: float = 0.0
) -> Pair:
    """Return SoftmaxWithLoss as a sum over all positions, and the gradient to the logits.

    A position contributes at most 87.3365 = -log(FLT_MIN); the gradient is not clipped there. With
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
) -> Pair:
    """Return the divergence of softened outputs, and the gradient of T^2 times it.

    ``sum of p_t * (log p_t - log p_s)``, each logarithm of at least FLT_MIN;
    ``T * (p_s - p_t)``.
    """
    keep = valid[:, None, :]
    log_s, log_t = log_softmax(student / temperature), log_softmax(teacher / temperature)
    p_t = np.exp(log_t)
    losses = p_t * (np.maximum(log_t, _LEAST_LOG) - np.maximum(log_s, _LEAST_LOG))
    gradient = temperature * (np.exp(log_s) - p_t)
    return float(np.where(keep, losses, 0.0).sum()), np.where(keep, gradient, 0.0)


def decoupled(
    student: np.ndarray,
    teacher: np.ndarray,
    label: np.ndarray,
    valid: np.ndarray,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Pair:
    """Return soft targets in two parts, summed over all positions, as DecoupledDistillingLoss."""
    is_label = one_hot(np.where(valid, label, 0), student.shape[1]) > 0
    (two_s, log_s), (two_t, log_t) = (_parts(z / temperature, is_label) for z in (student, teacher))
    losses = alpha * (np.exp(two_t) * (two_t - two_s)).sum(axis=1)
    losses = losses + beta * (np.exp(log_t) * (log_t - log_s)).sum(axis=1)
    at_label, at_others = np.split(np.exp(two_s) - np.exp(two_t), 2, axis=1)
    q_s, q_t = (np.where(is_label, 0.0, np.exp(log_q)) for log_q in (log_s, log_t))
    gradient = alpha * np.where(is_label, at_label, at_others * q_s) + beta * (q_s - q_t)
    value = np.where(valid, losses, 0.0).sum() * temperature**2
    return float(value), np.where(valid[:, None, :], gradient, 0.0) * temperature


def _parts(logits: np.ndarray, is_label: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Return log (p[y], 1 - p[y]), (outer, 2, inner), and log q of the others, 0 at the label."""
    others = np.where(is_label, -np.inf, logits)
    most = others.max(axis=1, keepdims=True)
    total = most + np.log(np.exp(others - most).sum(axis=1, keepdims=True))
    at_label = np.where(is_label, logits, 0.0).sum(axis=1, keepdims=True)
    two = log_softmax(np.concatenate([at_label, total], axis=1))
    return two, np.where(is_label, 0.0, logits - total)


def correlation_loss(student: np.ndarray, teacher: np.ndarray, axis: int) -> Pair:
    """Return the mean of 1 - Pearson's correlation along an axis, and the gradient."""
    a, b = (x - x.mean(axis=axis, keepdims=True) for x in (student, teacher))
    of_a, of_b = (np.sqrt((x**2).sum(axis=axis, keepdims=True)) for x in (a, b))
    product, divisor = (a * b).sum(axis=axis, keepdims=True), of_a * of_b + _LEAST_PRODUCT
    slope = b / divisor - product * of_b / divisor**2 * a / np.where(of_a > 0, of_a, 1.0)
    slope = slope - slope.mean(axis=axis, keepdims=True)
    return float((1 - product / divisor).mean()), -slope / product.size


def one_hot(classes: np.ndarray, count: int) -> np.ndarray:
    """Return 1 where the class is that of (outer, inner), else 0: (outer, count, inner)."""
    return (classes[:, None, :] == np.arange(count)[None, :, None]).astype(float)


def _at_label(values: np.ndarray, label: np.ndarray) -> np.ndarray:
    return np.where(one_hot(label, values.shape[1]) > 0, values, 0.0).sum(axis=1)
