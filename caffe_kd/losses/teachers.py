"""Logits combined from others: those of several teachers, or of other classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def mean_probabilities(
    logits: Sequence[Tensor],
    weights: Sequence[float],
    *,
    temperature: float = 4.0,
    axis: int = 1,
) -> Tensor:
    """Return logits whose softened probabilities are the mean of the given ones'.

    ``z = T * log(sum of w_i softmax(z_i / T))``, so that
    ``softmax(z / T) = sum of w_i softmax(z_i / T)``.

    Args:
        logits: z_i, of one shape, with the classes along ``axis``.
        weights: w_i, 0 or more, with sum 1.
        temperature: T, above 0.
        axis: the class axis.

    Returns:
        Logits of the same shape, 0 or less.

    Source: Hinton, Vinyals, Dean, https://arxiv.org/abs/1503.02531: the arithmetic mean.
    """
    counted = [(z, w) for z, w in zip(logits, weights, strict=True) if w > 0]
    terms = [F.log_softmax(z / temperature, axis) for z, _ in counted]
    shares = terms[0].new_tensor([w for _, w in counted]).log()
    shares = shares.reshape(-1, *[1] * terms[0].dim())
    return temperature * (torch.stack(terms) + shares).logsumexp(0)


def mean_logits(logits: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return ``sum of w_i z_i``, whose softmax is the geometric mean of the z_i's, made to sum 1.

    Source: Hinton, Vinyals, Dean, https://arxiv.org/abs/1503.02531: the geometric mean.
    """
    first, *others = (w * z for z, w in zip(logits, weights, strict=True))
    return sum(others, first)


def join_classes(
    logits: Tensor, members: Tensor, padding: Tensor, *, temperature: float = 4.0, axis: int = 1
) -> Tensor:
    """Return logits of groups of classes, whose probabilities are added.

    ``z_g = T * log(sum over c in group g of e^(z_c / T))``, so that a group's ``softmax(z / T)`` is
    the sum of its members', divided by that of all groups.

    Args:
        logits: scores with C classes along ``axis``.
        members: whole numbers 0..C-1 (G, M): a group's classes, and any where padding says so.
        padding: booleans (G, M), true where a group has fewer than M classes.
        temperature: T, above 0.
        axis: the class axis.

    Returns:
        Logits with G classes along ``axis``.
    """
    axis %= logits.dim()
    shape = (*logits.shape[:axis], *members.shape, *logits.shape[axis + 1 :])
    parts = logits.index_select(axis, members.flatten()).reshape(shape)
    if members.shape[1] == 1:
        return parts.squeeze(axis + 1)
    missing = padding.reshape(*padding.shape, *[1] * (logits.dim() - axis - 1))
    parts = (parts / temperature).masked_fill(missing, -torch.inf)
    return temperature * parts.logsumexp(axis + 1)
