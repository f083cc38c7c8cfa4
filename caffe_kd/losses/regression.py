"""Losses between values and targets that are robust against outliers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def smooth_l1(
    values: Tensor,
    targets: Tensor,
    inside: Tensor | None = None,
    outside: Tensor | None = None,
    *,
    sigma: float = 1.0,
) -> Tensor:
    """Return a distance that is squared near the targets and absolute far from them.

    ``sum of w_out * f(w_in * (x - t)) / N``, with ``f(d) = (sigma d)^2 / 2`` where
    ``|d| < 1 / sigma^2`` and ``|d| - 1 / (2 sigma^2)`` elsewhere.

    Args:
        values: x (N, ...).
        targets: t, as many.
        inside: w_in, as many; None: 1.
        outside: w_out, as many; None: 1.
        sigma: above 0.

    Returns:
        A scalar, 0 or more, in units of the values where they are far.

    Source: Girshick 2015, Fast R-CNN; with sigma, py-faster-rcnn.
    """
    difference = values - targets.reshape(values.shape)
    if inside is not None:
        difference = difference * inside.reshape(values.shape)
    losses = F.smooth_l1_loss(
        difference, torch.zeros_like(difference), reduction="none", beta=1 / sigma**2
    )
    if outside is not None:
        losses = losses * outside.reshape(values.shape)
    return losses.sum() / len(values)
