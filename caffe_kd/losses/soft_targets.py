"""Distillation on logits: how far a student's soft targets are from its teacher's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .normalization import VALID, normalizer, split_at_axis

DIVERGENCES = ("KL", "CROSS_ENTROPY", "MSE", "PSEUDO_LABEL")

# Keep quotients finite: as in the standardisation's and the weighting's published code.
_LEAST_DEVIATION = 1e-7
_LEAST_ENTROPY = 1e-7


def softmax_with_temperature(logits: Tensor, temperature: float = 1.0, axis: int = 1) -> Tensor:
    """Return ``softmax(logits / temperature)`` along ``axis``.

    Args:
        logits: scores of any shape.
        temperature: above 0; the higher, the more even the probabilities.
        axis: the class axis.

    Source: Hinton, Vinyals, Dean, https://arxiv.org/abs/1503.02531, equation 1.
    """
    return F.softmax(logits / temperature, axis)


def standardized(logits: Tensor, axis: int = 1) -> Tensor:
    """Return logits with mean 0 and deviation 1 over the classes of each position.

    ``(z - mean) / (deviation + 1e-7)``, where the deviation's divisor is C - 1. A position whose
    logits are all equal becomes 0.

    Args:
        logits: scores with C >= 2 classes along ``axis``.
        axis: the class axis.

    Source: Sun et al. 2024, Logit Standardization in Knowledge Distillation,
        https://arxiv.org/abs/2403.01427.
    """
    centred = logits - logits.mean(axis, keepdim=True)
    return centred / (logits.std(axis, keepdim=True) + _LEAST_DEVIATION)


def focal_weights(student: Tensor, labels: Tensor, gamma: float = 2.0, axis: int = 1) -> Tensor:
    """Return the weight of each position by how far the student is from its label.

    ``(1 - p_s[label])^gamma`` with ``p_s = softmax(z_s)``; no gradient flows through it.

    Args:
        student: logits z_s with C classes along ``axis``.
        labels: classes 0..C-1, one for each position, in their order and any shape.
        gamma: 0 or more; 0 makes all weights 1.
        axis: the class axis.

    Returns:
        Weights in 0..1, of the logits' shape with size 1 at ``axis``.

    Source: Lin et al. 2017, Focal Loss for Dense Object Detection,
        https://arxiv.org/abs/1708.02002, equation 4. There it weighs the labels' cross entropy, and
        the gradient flows through it.
    """
    log_p = F.log_softmax(student.detach(), axis).gather(axis, _along(labels, student, axis))
    return (1 - log_p.exp()).clamp(min=0) ** gamma


def soft_label_weights(student: Tensor, teacher: Tensor, labels: Tensor, axis: int = 1) -> Tensor:
    """Return the weight of each position by how much worse the student is than its teacher.

    ``1 - exp(-L_s / (L_t + 1e-7))`` with ``L = -log softmax(z)[label]``: near 0 where the student
    predicts the label better than its teacher, near 1 where it errs and the teacher does not. No
    gradient flows through it.

    Args:
        student: logits z_s with C classes along ``axis``.
        teacher: logits z_t of the same shape.
        labels: classes 0..C-1, one for each position, in their order and any shape.
        axis: the class axis.

    Returns:
        Weights in 0..1, of the logits' shape with size 1 at ``axis``.

    Source: Zhou et al. 2021, Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance
        Tradeoff Perspective, https://arxiv.org/abs/2102.00650.
    """
    at = _along(labels, student, axis)
    losses = (-F.log_softmax(z.detach(), axis).gather(axis, at) for z in (student, teacher))
    of_student, of_teacher = losses
    return 1 - torch.exp(-of_student / (of_teacher + _LEAST_ENTROPY))


def _along(values: Tensor, logits: Tensor, axis: int) -> Tensor:
    """Return one value for each position in the logits' shape, with size 1 at the class axis."""
    shape = list(logits.shape)
    shape[axis] = 1
    return values.reshape(shape)


def soft_target_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 4.0,
    divergence: str = "KL",
    scale_by_temperature: bool = True,
    axis: int = 1,
    valid: Tensor | None = None,
    weights: Tensor | None = None,
    normalization: int = VALID,
) -> Tensor:
    """Return how far the student's logits are from the teacher's.

    With ``p = softmax(logits / T)``, summed over classes and positions::

        KL             T^2 * sum p_t * (log p_t - log p_s) / normaliser
        CROSS_ENTROPY  T^2 * sum -p_t * log p_s            / normaliser
        MSE            sum (z_s - z_t)^2 / (C * normaliser)               (T is not used)
        PSEUDO_LABEL   sum -log softmax(z_s)[argmax z_t] / normaliser     (T is not used)

    KL and CROSS_ENTROPY have the same gradient to the student, ``T * (p_s - p_t) / normaliser``.

    Args:
        student: logits z_s with C classes along ``axis``.
        teacher: logits z_t of the same shape; detach them unless the teacher learns too.
        temperature: T, above 0.
        divergence: one of DIVERGENCES.
        scale_by_temperature: whether to multiply by T^2.
        axis: the class axis.
        valid: one boolean for each position, in their order and any shape; where it is false there
            is neither loss nor gradient.
        weights: likewise a factor for each position, which does not affect the normaliser.
        normalization: see ``normalization.normalizer``.

    Returns:
        A scalar: nats, or squared logits for MSE.

    Raises:
        ValueError: the divergence is unknown.

    Source: https://arxiv.org/abs/1503.02531 (KL and cross entropy with T^2);
        https://arxiv.org/abs/1312.6184 (MSE on logits); https://arxiv.org/abs/2012.12877
        (the teacher's top class as a label).
    """
    if divergence not in DIVERGENCES:
        raise ValueError(f"divergence must be one of {DIVERGENCES}, not {divergence!r}")
    outer, classes, inner = split_at_axis(tuple(student.shape), axis)
    reduction = "sum" if valid is None and weights is None else "none"
    factor = temperature**2 if scale_by_temperature else 1.0
    if divergence == "MSE":
        factor = 1 / classes
        terms = F.mse_loss(student, teacher, reduction=reduction)
    elif divergence == "PSEUDO_LABEL":
        factor = 1.0
        terms = -F.log_softmax(student, axis).gather(axis, teacher.argmax(axis, keepdim=True))
    else:
        log_student = F.log_softmax(student / temperature, axis)
        if divergence == "KL":
            log_teacher = F.log_softmax(teacher / temperature, axis)
            terms = F.kl_div(log_student, log_teacher, reduction=reduction, log_target=True)
        else:
            terms = -softmax_with_temperature(teacher, temperature, axis) * log_student
    if weights is not None:
        terms = terms * _along(weights, student, axis)
    if valid is not None:
        terms = terms.masked_fill(~_along(valid, student, axis), 0)
    total = terms.sum() if terms.dim() else terms
    return total * factor / normalizer(normalization, outer, inner, valid)
