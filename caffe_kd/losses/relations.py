"""Distillation on relations between the samples of a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .features import unit

_DISTANCE_FLOOR = 1e-12  # of squared distances: a square root's gradient has no bound at 0
_PROBABILITY_FLOOR = 1e-7


def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    """Return how far two nets' similarities between samples differ.

    ``|n(F_s F_s^T) - n(F_t F_t^T)|^2 / N^2``, where F has a row for each sample and ``n`` brings
    rows to length 1; ``|.|^2`` is the sum of the squares.

    Args:
        student: features (N, ...).
        teacher: features (N, ...), of any number.

    Returns:
        A scalar in 0..4 / N.

    Source: Tung, Mori 2019, Similarity-Preserving Knowledge Distillation,
        https://arxiv.org/abs/1907.09682.
    """
    return F.mse_loss(_similarities(student), _similarities(teacher))


def _similarities(x: Tensor) -> Tensor:
    rows = x.flatten(1)
    return unit(rows @ rows.T)


def distances(rows: Tensor) -> Tensor:
    """Return the distances (N, N) of rows, in units of their mean.

    ``d_ij^2 = |a_i|^2 + |a_j|^2 - 2 a_i.a_j``, at least 1e-12, and 0 for i = j; the mean is over
    those above 0.
    """
    squares = rows.square().sum(1)
    squared = squares.unsqueeze(1) + squares - 2 * rows @ rows.T
    # Not clamp, whose gradient at its bound depends on the version of torch.
    found = torch.where(squared < _DISTANCE_FLOOR, _DISTANCE_FLOOR, squared).sqrt()
    found = found.masked_fill(torch.eye(len(rows), dtype=torch.bool, device=rows.device), 0)
    count = (found > 0).sum().clamp(min=1)
    mean = found.sum() / count
    return found / mean.clamp(min=_DISTANCE_FLOOR)


def relational_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return how far the distances between samples differ, each net's in units of its mean.

    ``mean over i, j of h(d_ij of the student - d_ij of the teacher)``, with ``distances`` d and
    ``h(x) = x^2 / 2 where |x| < 1 and |x| - 1/2 elsewhere``.

    Args:
        student: embeddings (N, ...).
        teacher: embeddings (N, ...), of any number.

    Returns:
        A scalar, 0 or more.

    Source: Park et al. 2019, Relational Knowledge Distillation, https://arxiv.org/abs/1904.05068.
    """
    return F.smooth_l1_loss(distances(student.flatten(1)), distances(teacher.flatten(1)))


def angles(rows: Tensor) -> Tensor:
    """Return ``e_ij . e_ik`` (N, N, N) with ``e_ij = n(a_j - a_i)``, ``n`` for length 1."""
    directions = unit(rows.unsqueeze(0) - rows.unsqueeze(1))
    return directions @ directions.transpose(1, 2)


def relational_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Return how far the angles in all triangles of samples differ.

    ``mean over i, j, k of h(cos_ijk of the student - cos_ijk of the teacher)``, where cos_ijk is
    that of the angle at sample i between j and k (0 where two of them are one), and ``h`` as in
    ``relational_distance``. It takes memory for N^3 values, and N^2 times the features.

    Args:
        student: embeddings (N, ...).
        teacher: embeddings (N, ...), of any number.

    Returns:
        A scalar in 0..3/2.

    Source: Park et al. 2019, Relational Knowledge Distillation, https://arxiv.org/abs/1904.05068.
    """
    return F.smooth_l1_loss(angles(student.flatten(1)), angles(teacher.flatten(1)))


def probabilistic_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """Return how differently two nets spread probability over the neighbours of a sample.

    ``mean over i, j of p_t log((p_t + e) / (p_s + e))`` with e = 1e-7 and p the rows of
    ``(cosine similarity + 1) / 2``, divided by their sums.

    Args:
        student: features (N, ...).
        teacher: features (N, ...), of any number.

    Returns:
        A scalar in nats, 0 or more but for e.

    Source: Passalis, Tefas 2018, Learning Deep Representations with Probabilistic Knowledge
        Transfer, https://arxiv.org/abs/1803.10837; the mean over N^2 is that of the authors' code.
    """
    p_s, p_t = _neighbours(student), _neighbours(teacher)
    ratio = (p_t + _PROBABILITY_FLOOR) / (p_s + _PROBABILITY_FLOOR)
    return (p_t * ratio.log()).mean()


def _neighbours(x: Tensor) -> Tensor:
    rows = unit(x.flatten(1))
    closeness = (rows @ rows.T + 1) / 2
    return closeness / closeness.sum(1, keepdim=True)


def correlation_congruence(student: Tensor, teacher: Tensor) -> Tensor:
    """Return how far the nets' differences correlate between consecutive samples.

    ``mean over i of the sum over features of |d_i| |d_(i+1)|`` with ``d = e_s - e_t``; a batch of
    one sample gives 0.

    Args:
        student: embeddings e_s (N, K), usually of 128 values.
        teacher: embeddings e_t, of the same shape.

    Returns:
        A scalar in squared units of the embeddings, 0 or more.

    Source: Peng et al. 2019, Correlation Congruence for Knowledge Distillation,
        https://arxiv.org/abs/1904.01802; this form is that of a common implementation.
    """
    apart = (student.flatten(1) - teacher.flatten(1)).abs()
    return (apart[1:] * apart[:-1]).sum() / max(len(apart) - 1, 1)


def nearest(similarities: Tensor, count: int) -> Tensor:
    """Return which samples (N, N) are among the ``count`` most similar to each, itself left out."""
    samples = len(similarities)
    own = torch.eye(samples, dtype=torch.bool, device=similarities.device)
    if count == 0 or count >= samples - 1:
        return ~own
    others = similarities.detach().masked_fill(own, -torch.inf)
    chosen = torch.zeros_like(own)
    return chosen.scatter_(1, others.topk(count, 1).indices, True)


def sample_graph(
    student: Tensor,
    teacher: Tensor,
    *,
    neighbours: int = 0,
    node_weight: float = 1.0,
    edge_weight: float = 1.0,
) -> Tensor:
    """Return how far two nets' graphs over the samples of a batch differ.

    A node is an embedding normalised to length 1, ``x_i``; an edge's value is the cosine similarity
    of its ends, ``a_ij = x_i . x_j``. Edges go from each sample to its ``neighbours`` most similar
    ones, in the student's graph or in the teacher's: so an edge that only the student has counts as
    much as one it lacks::

        node_weight * mean over i of |x_i of the student - x_i of the teacher|^2
        + edge_weight * mean over edges of (a_ij of the student - a_ij of the teacher)^2

    A batch of one sample has no edges, and 0 for their mean.

    Args:
        student: embeddings (N, ...).
        teacher: embeddings (N, ...); of the same number unless node_weight is 0.
        neighbours: k; 0: all other samples.
        node_weight: 0 or more.
        edge_weight: 0 or more.

    Returns:
        A scalar in 0..4 * (node_weight + edge_weight).

    Source: Liu et al. 2019, Knowledge Distillation via Instance Relationship Graph (CVPR), whose
        vertices are features and whose edges are squared distances between all samples; the k
        nearest and the cosines are this project's.
    """
    x_s, x_t = unit(student.flatten(1)), unit(teacher.flatten(1))
    a_s, a_t = x_s @ x_s.T, x_t @ x_t.T
    edges = nearest(a_s, neighbours) | nearest(a_t, neighbours)
    off = (a_s - a_t).square().masked_fill(~edges, 0)
    loss = edge_weight * off.sum() / edges.sum().clamp(min=1)
    if node_weight:
        loss = loss + node_weight * (x_s - x_t).square().sum(1).mean()
    return loss
