"""Distillation by contrast: a sample's own embedding against those of other samples."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def log_mean_score(
    anchors: Tensor,
    positives: Tensor,
    negatives: Tensor,
    temperature: float,
    drawn: Tensor | None = None,
) -> Tensor:
    """Return ``log c``, the logarithm of the mean of ``exp(a.b / temperature)`` over all pairs.

    Args:
        anchors: (N, K), rows of length 1, as all others.
        positives: (N, K), one for each anchor.
        negatives: (M, K).
        temperature: above 0.
        drawn: int64 (N, D), row numbers of each anchor's negatives; None: all negatives for all.
    """
    matching, others = _scores(anchors, positives, negatives, temperature, drawn)
    scores = torch.cat([matching, others.flatten()])
    return scores.logsumexp(0) - math.log(len(scores))


def contrastive_representation(
    anchors: Tensor,
    positives: Tensor,
    negatives: Tensor,
    log_mean: Tensor,
    *,
    temperature: float = 0.07,
    drawn: Tensor | None = None,
    counted: Tensor | None = None,
) -> Tensor:
    """Return the contrastive loss of anchors, their positives and negatives.

    With ``g(a, b) = exp(a.b / temperature) / c`` and the M negatives of an anchor, the probability
    that a pair belongs together is ``h = g / (g + M)``, and the loss::

        mean over anchors of (-log h(anchor, positive) - sum over negatives of log(1 - h))

    An anchor without negatives gives 0.

    Args:
        anchors: (N, K), rows of length 1, as all others.
        positives: (N, K), one for each anchor.
        negatives: (M, K).
        log_mean: log c, a scalar: a constant, which makes g about 1 at the start.
        temperature: above 0.
        drawn: int64 (N, D), the negatives of each anchor by their rows, M = D of them where none is
            left out; a row that is drawn twice counts twice. None: all are those of all.
        counted: (N, M), or of ``drawn``'s shape, false where a row is not a negative of that
            anchor; None: all are.

    Returns:
        A scalar in nats, 0 or more.

    Source: Tian, Krishnan, Isola 2020, Contrastive Representation Distillation,
        https://arxiv.org/abs/1910.10699; c, which stands for the number of samples in their
        N / M, is that of the authors' code.
    """
    matching, others = _scores(anchors, positives, negatives, temperature, drawn)
    if counted is None:
        counted = torch.ones_like(others, dtype=torch.bool)
    offset = counted.sum(1).to(matching.dtype).log() + log_mean
    missed = F.softplus(offset - matching)
    mistaken = F.softplus(others - offset.unsqueeze(1)).masked_fill(~counted, 0).sum(1)
    return (missed + mistaken).mean()


def _scores(
    anchors: Tensor,
    positives: Tensor,
    negatives: Tensor,
    temperature: float,
    drawn: Tensor | None,
) -> tuple[Tensor, Tensor]:
    matching = (anchors * positives).sum(1) / temperature
    # All products are taken, then those that are drawn: that takes D / K times less memory than the
    # drawn rows would, and less time unless very few are drawn.
    others = anchors @ negatives.T
    if drawn is not None:
        others = others.gather(1, drawn)
    return matching, others / temperature
