"""Losses on distances between features: of pairs to each other, of samples to their centers."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

# What Caffe adds to a distance that it divides by, in the gradient alone.
_EPSILON = 1e-4


class _MarginSquared(torch.autograd.Function):
    """max(margin - d, 0)^2 of differences with length d; its gradient divides by d + 1e-4."""

    @staticmethod
    def forward(ctx: Any, difference: Tensor, margin: float) -> Tensor:
        distance = difference.norm(dim=1)
        missing = (margin - distance).clamp(min=0)
        ctx.save_for_backward(difference, distance, missing)
        return missing.square()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        difference, distance, missing = ctx.saved_tensors
        factor = -2 * missing / (distance + _EPSILON) * gradients[0]
        return factor.unsqueeze(1) * difference, None


def contrastive(
    a: Tensor, b: Tensor, similar: Tensor, *, margin: float = 1.0, legacy: bool = False
) -> Tensor:
    """Return the contrastive loss: distance of similar pairs, and what others lack to a margin.

    With ``d = |a_n - b_n|``: ``sum over pairs of d^2 if similar else max(margin - d, 0)^2``,
    divided by 2 N; the legacy form has ``max(margin - d^2, 0)``. The gradient of
    ``max(margin - d, 0)^2`` divides by ``d + 1e-4`` in place of d.

    Args:
        a: features (N, ...).
        b: features of the same shape.
        similar: N labels; those that truncate to 0 mark dissimilar pairs.
        margin: the distance beyond which such pairs give no loss.
        legacy: whether the margin applies to the squared distance.

    Returns:
        A scalar in squared units of the features, 0 or more.

    Source: Hadsell et al. 2006; Caffe's ContrastiveLossLayer.
    """
    difference = a.flatten(1) - b.flatten(1)
    squared = difference.square().sum(1)
    if legacy:
        apart = F.relu(margin - squared)
    else:
        apart = cast(Tensor, _MarginSquared.apply(difference, margin))  # type: ignore[no-untyped-call]
    losses = torch.where(similar.long().reshape(-1) != 0, squared, apart)
    return losses.sum() / (2 * len(losses))


class _CenterLoss(torch.autograd.Function):
    """Half the mean squared distance to the centers, which have a gradient of their own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
        difference = x - centers[labels]
        ctx.save_for_backward(difference, labels)
        ctx.classes = len(centers)
        return difference.square().sum() / (2 * len(x))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        difference, labels = ctx.saved_tensors
        to_x = difference * (gradients[0] / len(difference))
        sums = difference.new_zeros(ctx.classes, difference.shape[1])
        sums.index_add_(0, labels, -difference)
        counts = difference.new_ones(ctx.classes)
        counts.index_add_(0, labels, counts.new_ones(len(labels)))
        return to_x, sums / counts.unsqueeze(1), None


def center_loss(x: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
    """Return half the mean squared distance of features to the center of their class.

    ``sum over n of |x_n - c_(label n)|^2 / (2 N)``, with the gradient ``(x_n - c) / N`` to x. That
    to center j is ``sum over n with label j of (c_j - x_n) / (1 + how many)``: it is no derivative
    of the loss, and no weight of the loss changes it.

    Args:
        x: features (N, K).
        centers: (classes, K).
        labels: N classes.

    Returns:
        A scalar in squared units of the features, 0 or more.

    Source: Wen et al. 2016, A Discriminative Feature Learning Approach for Deep Face Recognition,
        equations 3 and 4; their fork caffe-face.
    """
    return cast(Tensor, _CenterLoss.apply(x, centers, labels.long().reshape(-1)))  # type: ignore[no-untyped-call]
