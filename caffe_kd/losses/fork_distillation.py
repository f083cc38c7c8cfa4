"""Distillation losses of public forks, as implemented there: value and gradient may disagree."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from .gradients import capped, scale_gradient
from .normalization import VALID, normalizer, split_at_axis

# The forks take the logarithm of max(probability, FLT_MIN), for double blobs too.
_LEAST_LOG = math.log(torch.finfo(torch.float32).tiny)


def knowledge_distillation(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    axis: int = 1,
    valid: Tensor | None = None,
    selected: Tensor | None = None,
    normalization: int = VALID,
) -> Tensor:
    """Return the divergence of softened outputs, with the gradient of T^2 times it.

    With ``p = softmax(z / T)``: ``sum of p_t * (log p_t - log p_s) / normaliser``, each logarithm
    that of at least FLT_MIN. The gradient to the student is ``T * (p_s - p_t) / normaliser``, not
    clamped with the value; there is none to the teacher.

    Args:
        student: logits z_s with C classes along ``axis``.
        teacher: logits z_t of the same shape.
        temperature: T, above 0.
        axis: the class axis.
        valid: one boolean for each position, in their order and any shape; where it is false there
            is neither loss nor gradient.
        selected: likewise; where it is false there is no gradient.
        normalization: see ``normalization.normalizer``.

    Returns:
        A scalar in units of nats, 0 or more.

    Source: the KnowledgeDistillation layer of public forks, first wentianli's.
    """
    shape = outer, _, inner = split_at_axis(tuple(student.shape), axis)
    student, teacher = student.reshape(shape), teacher.detach().reshape(shape)
    if selected is not None:
        student = torch.where(selected.reshape(outer, 1, inner), student, student.detach())
    log_student = -capped(-F.log_softmax(student / temperature, 1), -_LEAST_LOG)
    log_teacher = F.log_softmax(teacher / temperature, 1)
    terms = log_teacher.exp() * (log_teacher.clamp(min=_LEAST_LOG) - log_student)
    if valid is not None:
        terms = terms.masked_fill(~valid.reshape(outer, 1, inner), 0)
    total = scale_gradient(terms.sum(), temperature**2)
    return total / normalizer(normalization, outer, inner, valid)


class _MatchedLogits(torch.autograd.Function):
    """Passes a loss through, with the gradient of matching logits."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, loss: Tensor, difference: Tensor) -> Tensor:
        ctx.save_for_backward(difference)
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.saved_tensors[0] * gradients[0], None, None


def temp_softmax_cross_entropy(
    student: Tensor, teacher: Tensor, *, temperature: float = 2.0, axis: int = 1
) -> Tensor:
    """Return the cross entropy of softened outputs, with its gradient at high temperatures.

    With z the logits minus the mean over their sample, and ``p = softmax(z / T)``:
    ``sum of -p_t * log(max(p_s, FLT_MIN)) / N``. The gradient to the student is
    ``(z_s - z_t) / (C T^2) / N``, which is near that of the value once T is far above the z; there
    is none to the teacher.

    Args:
        student: logits (N, C, ...).
        teacher: as many.
        temperature: T, above 1.
        axis: the axis that the softmax runs along; C above is always the size of axis 1.

    Returns:
        A scalar in units of nats.

    Source: TempSoftmaxCrossEntropyLoss of a pull request to BVLC; https://arxiv.org/abs/1503.02531,
        equation 4.
    """
    with torch.no_grad():
        z_s, z_t = (_centered(z.reshape(student.shape)) for z in (student, teacher))
        log_student = F.log_softmax(z_s / temperature, axis).clamp(min=_LEAST_LOG)
        loss = -(F.softmax(z_t / temperature, axis) * log_student).sum() / len(student)
        difference = (z_s - z_t) / (student.shape[1] * temperature**2 * len(student))
    return cast(Tensor, _MatchedLogits.apply(student, loss, difference))  # type: ignore[no-untyped-call]


def _centered(logits: Tensor) -> Tensor:
    return logits - logits.mean(tuple(range(1, logits.dim())), keepdim=True)
