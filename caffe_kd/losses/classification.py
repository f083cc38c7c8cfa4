"""Caffe's losses against labels and targets, such as softmax cross entropy, hinge, euclidean."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .gradients import capped
from .normalization import BATCH_SIZE, VALID, normalizer, split_at_axis

# Caffe takes the logarithm of max(probability, FLT_MIN), for double blobs too.
MAX_CROSS_ENTROPY = -math.log(torch.finfo(torch.float32).tiny)  # 87.3365

# Infogain and multinomial logistic loss take it of max(probability, 1e-20).
MIN_PROBABILITY = 1e-20

# nll_loss always leaves one label out; no float32 or float64 label can become this one.
_NO_LABEL = -(2**62) - 1


class _ClampedLog(torch.autograd.Function):
    """log(max(p, MIN_PROBABILITY)), with the gradient 1 / max(p, MIN_PROBABILITY)."""

    @staticmethod
    def forward(ctx: Any, p: Tensor) -> Tensor:
        p = p.clamp(min=MIN_PROBABILITY)
        ctx.save_for_backward(p)
        return p.log()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] / ctx.saved_tensors[0]


def softmax_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    axis: int = 1,
    ignore_label: int | None = None,
    normalization: int = VALID,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the cross entropy of labels and softmax(logits).

    ``sum over positions of -log(max(p[label], FLT_MIN)) / normaliser`` with ``p = softmax(logits)``
    along ``axis``; a position gives at most 87.3365. The gradient ``(p - onehot) / normaliser`` is
    not clamped with the value, so that positions far off still learn.

    With smoothing e the label's share of the target is ``1 - e``, and e is spread evenly over all
    classes: each position gives ``(1 - e) * -log(p[label]) + e * mean over c of -log(p[c])``, each
    of the two clamped as above, with the gradient ``p - (1 - e) onehot - e / C``.

    Args:
        logits: scores with C classes along ``axis``.
        labels: classes 0..C-1, one for each position, in the order of the positions and any shape;
            floats are truncated.
        axis: the class axis.
        ignore_label: positions with this label give neither loss nor gradient.
        normalization: see ``normalization.normalizer``.
        label_smoothing: e, 0..1.

    Returns:
        A scalar in units of nats.

    Raises:
        IndexError: a label is not a class (on the CPU; an accelerator aborts).

    Source: Caffe's SoftmaxWithLossLayer. Smoothing: Szegedy et al. 2016, Rethinking the Inception
        Architecture for Computer Vision, https://arxiv.org/abs/1512.00567, section 7.
    """
    outer, classes, inner = split_at_axis(tuple(logits.shape), axis)
    positions = (outer, inner) if inner > 1 else (outer,)
    if logits.dim() != 2 or axis % 2 != 1:
        logits = logits.reshape(outer, classes, *positions[1:])
    targets = labels.long().reshape(positions)
    log_p = F.log_softmax(logits, 1)
    losses = F.nll_loss(
        log_p,
        targets,
        ignore_index=_NO_LABEL if ignore_label is None else ignore_label,
        reduction="none",
    )
    total = capped(losses, MAX_CROSS_ENTROPY).sum()
    valid = None if ignore_label is None else targets.ne(ignore_label)
    if label_smoothing:
        spread = capped(-log_p.mean(1), MAX_CROSS_ENTROPY)
        if valid is not None:
            spread = spread.masked_fill(~valid, 0)
        total = (1 - label_smoothing) * total + label_smoothing * spread.sum()
    return total / normalizer(normalization, outer, inner, valid)


def infogain(
    logits: Tensor,
    labels: Tensor,
    matrix: Tensor,
    *,
    axis: int = 1,
    ignore_label: int | None = None,
    normalization: int = VALID,
) -> Tensor:
    """Return the cross entropy of softmax(logits) and the rows of a matrix that the labels select.

    ``sum over positions and classes c of -H[label, c] log(max(p[c], 1e-20)) / normaliser`` with
    ``p = softmax(logits)`` along ``axis``. The gradient,
    ``(p[c] * sum of row H[label] - H[label, c]) / normaliser``, is not clamped with the value.

    Args:
        logits: scores with C classes along ``axis``.
        labels: classes 0..C-1, one for each position, in the order of the positions and any shape.
        matrix: H, C * C values by rows; the identity makes it softmax cross entropy.
        axis: the class axis.
        ignore_label: positions with this label give neither loss nor gradient.
        normalization: see ``normalization.normalizer``.

    Returns:
        A scalar in units of nats.

    Source: Caffe's InfogainLossLayer.
    """
    outer, classes, inner = split_at_axis(tuple(logits.shape), axis)
    labels = labels.long().reshape(outer, inner)
    valid = None if ignore_label is None else labels.ne(ignore_label)
    if valid is not None:
        labels = labels.where(valid, 0)
    rows = matrix.reshape(classes, classes)[labels].movedim(2, 1)
    if valid is not None:
        rows = rows.masked_fill(~valid.unsqueeze(1), 0)
    surprise = -F.log_softmax(logits.reshape(outer, classes, inner), 1)
    total = (rows * capped(surprise, -math.log(MIN_PROBABILITY))).sum()
    return total / normalizer(normalization, outer, inner, valid)


def multinomial_logistic(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of the labels, given probabilities.

    ``sum of -log(max(p[label], 1e-20)) / N``; the gradient to p[label] is
    ``-1 / max(p[label], 1e-20) / N``.

    Args:
        probabilities: values (N, ...), 0..1, each sample's flattened to C classes.
        labels: N classes 0..C-1.

    Returns:
        A scalar in units of nats.

    Source: Caffe's MultinomialLogisticLossLayer.
    """
    chosen = probabilities.flatten(1).gather(1, labels.long().reshape(-1, 1))
    logs: Tensor = _ClampedLog.apply(chosen)  # type: ignore[no-untyped-call]
    return -logs.sum() / len(chosen)


def hinge(scores: Tensor, labels: Tensor, *, squared: bool = False) -> Tensor:
    """Return the one-against-rest hinge loss, with margin 1.

    ``sum of max(0, 1 - s x) / N`` with ``s`` = 1 for the label's class and -1 for the others, or
    the sum of the squares.

    Args:
        scores: values x (N, ...), each sample's flattened to C classes.
        labels: N classes 0..C-1.
        squared: whether the violations are squared (norm L2) or not (L1).

    Returns:
        A scalar, 0 or more.

    Source: Caffe's HingeLossLayer.
    """
    scores = scores.flatten(1)
    own = F.one_hot(labels.long().reshape(-1), scores.shape[1]).bool()
    violations = F.relu(1 + torch.where(own, -scores, scores))
    return (violations.square() if squared else violations).sum() / len(scores)


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
    _, outer, inner = split_at_axis(tuple(logits.shape), 0)
    if ignore_label is None:
        total = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
        return total / normalizer(normalization, outer, inner)
    valid = targets.long().ne(ignore_label)
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    total = losses.masked_fill(~valid, 0).sum()
    return total / normalizer(normalization, outer, inner, valid)


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    """Return half the squared distance of two batches per sample.

    ``sum of (a - b)^2 / (2 N)``, with gradients ``(a - b) / N`` and ``(b - a) / N``.

    Args:
        a: values (N, ...).
        b: as many values.

    Returns:
        A scalar in squared units of the values. A mean over elements is another constant.

    Source: Caffe's EuclideanLossLayer.
    """
    return F.mse_loss(a, b.reshape(a.shape), reduction="sum") / (2 * a.shape[0])
