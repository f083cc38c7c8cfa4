"""Distillation on logits: how far a student's soft answers are from its teacher's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .normalization import VALID, extents, normalizer

DIVERGENCES = ("KL", "CROSS_ENTROPY", "MSE")


def softmax_with_temperature(logits: Tensor, temperature: float = 1.0, axis: int = 1) -> Tensor:
    """Return ``softmax(logits / temperature)`` along ``axis``.

    Args:
        logits: scores of any shape.
        temperature: above 0; the higher, the more even the probabilities.
        axis: the class axis.

    Source: Hinton, Vinyals, Dean, https://arxiv.org/abs/1503.02531, equation 1.
    """
    return F.softmax(logits / temperature, axis)


def soft_target_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 4.0,
    divergence: str = "KL",
    scale_by_temperature: bool = True,
    axis: int = 1,
    valid: Tensor | None = None,
    normalization: int = VALID,
) -> Tensor:
    """Return how far the student's logits are from the teacher's.

    With ``p = softmax(logits / T)``, summed over classes and positions::

        KL             T^2 * sum p_t * (log p_t - log p_s) / normaliser
        CROSS_ENTROPY  T^2 * sum -p_t * log p_s            / normaliser
        MSE            sum (z_s - z_t)^2 / (C * normaliser)      (T is not used)

    KL and CROSS_ENTROPY have the same gradient to the student, ``T * (p_s - p_t) / normaliser``.

    Args:
        student: logits z_s with C classes along ``axis``.
        teacher: logits z_t of the same shape; detach them unless the teacher learns too.
        temperature: T, above 0.
        divergence: one of DIVERGENCES.
        scale_by_temperature: whether the T^2 is there.
        axis: the class axis.
        valid: one boolean for each position, in their order and any shape; where it is false there
            is neither loss nor gradient.
        normalization: see ``normalization.normalizer``.

    Returns:
        A scalar: nats, or squared logits for MSE.

    Raises:
        ValueError: the divergence is unknown.

    Source: https://arxiv.org/abs/1503.02531 (KL and cross entropy with T^2);
        https://arxiv.org/abs/1312.6184 (MSE on logits).
    """
    if divergence not in DIVERGENCES:
        raise ValueError(f"divergence must be one of {DIVERGENCES}, not {divergence!r}")
    outer, classes, inner = extents(tuple(student.shape), axis)
    reduction = "sum" if valid is None else "none"
    factor = temperature**2 if scale_by_temperature else 1.0
    if divergence == "MSE":
        factor = 1 / classes
        terms = F.mse_loss(student, teacher, reduction=reduction)
    else:
        log_student = F.log_softmax(student / temperature, axis)
        if divergence == "KL":
            log_teacher = F.log_softmax(teacher / temperature, axis)
            terms = F.kl_div(log_student, log_teacher, reduction=reduction, log_target=True)
        else:
            terms = -softmax_with_temperature(teacher, temperature, axis) * log_student
    if valid is not None:
        kept = list(student.shape)
        kept[axis] = 1
        terms = terms.masked_fill(~valid.reshape(kept), 0)
    total = terms.sum() if terms.dim() else terms
    return total * factor / normalizer(normalization, outer, inner, valid)
