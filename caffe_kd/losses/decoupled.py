"""Soft targets in two parts: for the label, and for the other classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .normalization import VALID, normalizer, split_at_axis


def decoupled_kd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    temperature: float = 4.0,
    axis: int = 1,
    ignore_label: int | None = None,
    normalization: int = VALID,
) -> tuple[Tensor, Tensor]:
    """Return the divergence of soft outputs at the label, and that among the other classes.

    With ``p = softmax(z / T)``, y the label and ``q = p without p[y], divided by its sum``::

        target part      T^2 * sum of KL((p_t[y], 1 - p_t[y]) || (p_s[y], 1 - p_s[y])) / normaliser
        non-target part  T^2 * sum of KL(q_t || q_s)                                   / normaliser

    Plain KL(p_t || p_s) is the first plus ``1 - p_t[y]`` times the second: where the teacher is
    confident, what it knows about the other classes is almost lost.

    Args:
        student: logits z_s with C >= 2 classes along ``axis``.
        teacher: logits z_t of the same shape; detach them unless the teacher learns too.
        labels: whole numbers 0..C-1, one for each position, in their order and any shape.
        temperature: T, above 0.
        axis: the class axis.
        ignore_label: positions with this label give neither loss nor gradient.
        normalization: see ``normalization.normalizer``.

    Returns:
        Two scalars in nats, 0 or more.

    Source: Zhao et al. 2022, Decoupled Knowledge Distillation, https://arxiv.org/abs/2203.08679.
        There the label is kept out of q by a logit of -1000, here by leaving it out.
    """
    outer, classes, inner = split_at_axis(tuple(student.shape), axis)
    student, teacher = (z.reshape(outer, classes, inner) / temperature for z in (student, teacher))
    labels = labels.reshape(outer, 1, inner)
    valid = None if ignore_label is None else labels.ne(ignore_label)
    if valid is not None:
        labels = labels.where(valid, 0)
    is_label = torch.zeros_like(student, dtype=torch.bool).scatter(1, labels, True)
    target = _divergence(_two_ways(student, is_label), _two_ways(teacher, is_label))
    other = _divergence(_among_others(student, is_label), _among_others(teacher, is_label))
    if valid is not None:
        target, other = (terms.masked_fill(~valid, 0) for terms in (target, other))
    divisor = normalizer(normalization, outer, inner, valid)
    return target.sum() * temperature**2 / divisor, other.sum() * temperature**2 / divisor


def _divergence(log_student: Tensor, log_teacher: Tensor) -> Tensor:
    return F.kl_div(log_student, log_teacher, reduction="none", log_target=True)


def _two_ways(logits: Tensor, is_label: Tensor) -> Tensor:
    """Return the logarithms of p[y] and 1 - p[y], along axis 1."""
    label, others = (
        logits.masked_fill(mask, -torch.inf).logsumexp(1) for mask in (~is_label, is_label)
    )
    return F.log_softmax(torch.stack([label, others], 1), 1)


def _among_others(logits: Tensor, is_label: Tensor) -> Tensor:
    """Return log q, with 0 in the label's place."""
    return F.log_softmax(logits.masked_fill(is_label, -torch.inf), 1).masked_fill(is_label, 0)
