"""Caffe's losses against labels and targets: softmax, sigmoid cross entropy, euclidean."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .normalization import BATCH_SIZE, VALID, extents, normalizer

# Caffe takes the logarithm of max(probability, FLT_MIN), for double blobs too.
MAX_CROSS_ENTROPY = -math.log(torch.finfo(torch.float32).tiny)  # 87.3365

# nll_loss always leaves one label out; no float32 or float64 label can become this one.
_NO_LABEL = -(2**62) - 1


class _CappedSum(torch.autograd.Function):
    """The sum of values capped at MAX_CROSS_ENTROPY, with the gradient of the uncapped sum."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.shape = values.shape
        return values.clamp(max=MAX_CROSS_ENTROPY).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].expand(ctx.shape)


def softmax_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    axis: int = 1,
    ignore_label: int | None = None,
    normalization: int = VALID,
) -> Tensor:
    """Return the cross entropy of labels and softmax(logits).

    ``sum over positions of -log(max(p[label], FLT_MIN)) / normaliser`` with ``p = softmax(logits)``
    along ``axis``; a position gives at most 87.3365. The gradient ``(p - onehot) / normaliser`` is
    not cut off with the value: even a hopeless position learns.

    Args:
        logits: scores with C classes along ``axis``.
        labels: classes 0..C-1, one for each position, in the order of the positions and any shape;
            floats are truncated.
        axis: the class axis.
        ignore_label: positions with this label give neither loss nor gradient.
        normalization: see ``normalization.normalizer``.

    Returns:
        A scalar in units of nats.

    Raises:
        IndexError: a label is not a class (on the CPU; an accelerator aborts).

    Source: Caffe's SoftmaxWithLossLayer.
    """
    outer, classes, inner = extents(tuple(logits.shape), axis)
    positions = (outer, inner) if inner > 1 else (outer,)
    if logits.dim() != 2 or axis % 2 != 1:
        logits = logits.reshape(outer, classes, *positions[1:])
    targets = labels.long().reshape(positions)
    losses = F.nll_loss(
        F.log_softmax(logits, 1),
        targets,
        ignore_index=_NO_LABEL if ignore_label is None else ignore_label,
        reduction="none",
    )
    total: Tensor = _CappedSum.apply(losses)  # type: ignore[no-untyped-call]
    valid = None if ignore_label is None else targets.ne(ignore_label)
    return total / normalizer(normalization, outer, inner, valid)


def sigmoid_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    ignore_label: int | None = None,
    normalization: int = BATCH_SIZE,
) -> Tensor:
    """Return the cross entropy of independent targets and sigmoid(logits).

    ``sum of -(t log s + (1 - t) log(1 - s)) / normaliser`` with ``s = sigmoid(logits)``, over every
    element. The gradient is ``(s - t) / normaliser``.

    Args:
        logits: scores (N, ...).
        targets: as many values, 0..1.
        ignore_label: elements whose truncated target is this give neither loss nor gradient.
        normalization: see ``normalization.normalizer``; here a position is an element.

    Returns:
        A scalar in units of nats.

    Source: Caffe's SigmoidCrossEntropyLossLayer.
    """
    targets = targets.reshape(logits.shape)
    _, outer, inner = extents(tuple(logits.shape), 0)
    if ignore_label is None:
        total = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
        return total / normalizer(normalization, outer, inner)
    valid = targets.long().ne(ignore_label)
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    total = losses.masked_fill(~valid, 0).sum()
    return total / normalizer(normalization, outer, inner, valid)


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    """Return half the squared distance of two batches per record.

    ``sum of (a - b)^2 / (2 N)``, with gradients ``(a - b) / N`` and ``(b - a) / N``.

    Args:
        a: values (N, ...).
        b: as many values.

    Returns:
        A scalar in squared units of the values. A mean over elements is another constant.

    Source: Caffe's EuclideanLossLayer.
    """
    return F.mse_loss(a, b.reshape(a.shape), reduction="sum") / (2 * a.shape[0])
