"""Losses on the relations between the samples of a batch."""

from typing import List, Tuple

import numpy as np

from .base import LossLayer, Shape, count, number
from .features import unit, unit_gradient

_Pair = Tuple[float, np.ndarray]  # a loss, and its gradient to the student's rows

_DISTANCE_FLOOR = 1e-12  # of squared distances: the gradient of a square root is unbounded at 0
_PROBABILITY_FLOOR = 1e-7


# ---- the formulas, of rows (N, K), one for each sample


def smooth_l1(off: np.ndarray) -> _Pair:
    """Return the mean of ``x^2 / 2 where |x| < 1 and |x| - 1/2 elsewhere``, and its gradient."""
    size = np.abs(off)
    value = np.where(size < 1, 0.5 * off**2, size - 0.5).mean()
    return float(value), np.clip(off, -1, 1) / off.size


def similarity_preserving(student: np.ndarray, teacher: np.ndarray) -> _Pair:
    """Return ``|n(F_s F_s^T) - n(F_t F_t^T)|^2 / N^2``, ``n`` for rows of length 1."""
    u_s, length = unit(np.matmul(student, student.T))
    off = u_s - unit(np.matmul(teacher, teacher.T))[0]
    gradient = unit_gradient(u_s, length, 2 * off / off.size)
    return float((off**2).mean()), np.matmul(gradient + gradient.T, student)


def distances(rows: np.ndarray) -> Tuple[np.ndarray, float, np.ndarray]:
    """Return distances (N, N) in units of their mean, that mean, and where their gradient is not 0.

    ``d_ij^2 = |a_i|^2 + |a_j|^2 - 2 a_i.a_j``, at least 1e-12, and 0 for i = j; the mean is over
    those above 0.
    """
    squares = (rows**2).sum(axis=1)
    squared = squares[:, None] + squares - 2 * np.matmul(rows, rows.T)
    off_diagonal = ~np.eye(len(rows), dtype=bool)
    found = np.where(off_diagonal, np.sqrt(np.maximum(squared, _DISTANCE_FLOOR)), 0.0)
    mean = found.sum() / max(int((found > 0).sum()), 1)
    return found, float(mean), off_diagonal & (squared >= _DISTANCE_FLOOR)


def relational_distance(student: np.ndarray, teacher: np.ndarray) -> _Pair:
    """Return the smooth L1 of the differences of ``distances``, each net's divided by its mean."""
    found, mean, sloped = distances(student)
    theirs, their_mean, _ = distances(teacher)
    divisor = max(mean, _DISTANCE_FLOOR)
    value, slope = smooth_l1(found / divisor - theirs / max(their_mean, _DISTANCE_FLOOR))
    gradient = slope / divisor
    if mean >= _DISTANCE_FLOOR:
        gradient = gradient - (slope * found).sum() / divisor**2 / max(int((found > 0).sum()), 1)
    squared = np.where(sloped, gradient / (2 * np.where(sloped, found, 1.0)), 0.0)
    both = squared + squared.T
    return value, 2 * (student * both.sum(axis=1)[:, None] - np.matmul(both, student))


def relational_angle(student: np.ndarray, teacher: np.ndarray) -> _Pair:
    """Return the smooth L1 of the differences of all cosines between three samples."""
    (e_s, length), (e_t, _) = (unit(rows[None] - rows[:, None]) for rows in (student, teacher))
    off = np.matmul(e_s, e_s.transpose(0, 2, 1)) - np.matmul(e_t, e_t.transpose(0, 2, 1))
    value, slope = smooth_l1(off)
    gradient = np.matmul(slope + slope.transpose(0, 2, 1), e_s)
    gradient = unit_gradient(e_s, length, gradient)
    return value, gradient.sum(axis=0) - gradient.sum(axis=1)


def probabilistic_transfer(student: np.ndarray, teacher: np.ndarray) -> _Pair:
    """Return the mean of ``p_t log((p_t + e) / (p_s + e))``, as in PKTLoss."""
    (x_s, length), (x_t, _) = unit(student), unit(teacher)
    close_s, close_t = ((np.matmul(x, x.T) + 1) / 2 for x in (x_s, x_t))
    total = close_s.sum(axis=1, keepdims=True)
    p_s, p_t = close_s / total, close_t / close_t.sum(axis=1, keepdims=True)
    value = p_t * np.log((p_t + _PROBABILITY_FLOOR) / (p_s + _PROBABILITY_FLOOR))
    slope = -p_t / (p_s + _PROBABILITY_FLOOR) / p_t.size
    slope = (slope - (slope * p_s).sum(axis=1, keepdims=True)) / total / 2
    return float(value.mean()), unit_gradient(x_s, length, np.matmul(slope + slope.T, x_s))


def correlation_congruence(student: np.ndarray, teacher: np.ndarray) -> _Pair:
    """Return the mean over i of the sum of ``|d_i| |d_(i+1)|`` with ``d = e_s - e_t``."""
    off = student - teacher
    size = np.abs(off)
    pairs = max(len(off) - 1, 1)
    slope = np.zeros_like(size)
    slope[:-1] += size[1:]
    slope[1:] += size[:-1]
    return float((size[1:] * size[:-1]).sum() / pairs), slope * np.sign(off) / pairs


def nearest(similarities: np.ndarray, neighbours: int) -> np.ndarray:
    """Return which samples (N, N) are are among the most similar to each, excluding itself."""
    samples = len(similarities)
    off_diagonal = ~np.eye(samples, dtype=bool)
    if neighbours == 0 or neighbours >= samples - 1:
        return off_diagonal
    others = np.where(off_diagonal, similarities, -np.inf)
    chosen = np.zeros_like(off_diagonal)
    best = np.argsort(-others, axis=1, kind="stable")[:, :neighbours]
    np.put_along_axis(chosen, best, True, axis=1)
    return chosen


def sample_graph(
    student: np.ndarray,
    teacher: np.ndarray,
    neighbours: int = 0,
    node_weight: float = 1.0,
    edge_weight: float = 1.0,
) -> _Pair:
    """Return how far the graphs over the samples differ, as in SampleGraphLoss."""
    (x_s, length), (x_t, _) = unit(student), unit(teacher)
    a_s, a_t = np.matmul(x_s, x_s.T), np.matmul(x_t, x_t.T)
    edges = nearest(a_s, neighbours) | nearest(a_t, neighbours)
    off = np.where(edges, a_s - a_t, 0.0)
    share = edge_weight / max(int(edges.sum()), 1)
    value = share * (off**2).sum()
    slope = 2 * share * np.matmul(off + off.T, x_s)
    if node_weight:
        difference = x_s - x_t
        value += node_weight * (difference**2).sum() / len(difference)
        slope = slope + 2 * node_weight * difference / len(difference)
    return float(value), unit_gradient(x_s, length, slope)


# ---- the layers


class _RelationLoss(LossLayer):
    """A loss on the relations between the samples of a batch.

    Bottoms: the student's features (N, ...), the teacher's (N, ...).
    """

    same_values = False  # whether both must have the same number of values per sample

    def check_shapes(self, shapes: List[Shape]) -> None:
        student, teacher = shapes
        if min(len(student), len(teacher)) < 2 or student[0] != teacher[0]:
            self.refuse(
                "features must have at least 2 axes (N, ...), and both the same number of "
                f"samples. Received: {student} and {teacher}"
            )
        if self.same_values and np.prod(student, dtype=int) != np.prod(teacher, dtype=int):
            self.refuse(
                "student and teacher must have the same number of values per sample. "
                f"Received: {student} and {teacher}"
            )

    def loss(self, values: List[np.ndarray]) -> Tuple[float, List[np.ndarray]]:
        student, teacher = (x.reshape(len(x), -1) for x in values)
        value, gradient = self.compare(student, teacher)
        return value, [gradient]

    def compare(self, student: np.ndarray, teacher: np.ndarray) -> _Pair:
        """Return the loss of rows, and its gradient to the student's."""
        raise NotImplementedError


class SimilarityPreservingLoss(_RelationLoss):
    """Penalise a student whose similarities between samples differ from its teacher's.

    ``similarity_preserving`` of the features. Source: https://arxiv.org/abs/1907.09682.
    """

    def compare(self, student: np.ndarray, teacher: np.ndarray) -> _Pair:
        return similarity_preserving(student, teacher)


class RelationalDistanceLoss(_RelationLoss):
    """Penalise a student whose distances between samples differ from its teacher's.

    ``relational_distance`` of the features. Source: https://arxiv.org/abs/1904.05068.
    """

    def compare(self, student: np.ndarray, teacher: np.ndarray) -> _Pair:
        return relational_distance(student, teacher)


class RelationalAngleLoss(_RelationLoss):
    """Penalise a student whose angles between samples differ from its teacher's.

    ``relational_angle`` of the features. Source: https://arxiv.org/abs/1904.05068.
    """

    def compare(self, student: np.ndarray, teacher: np.ndarray) -> _Pair:
        return relational_angle(student, teacher)


class PKTLoss(_RelationLoss):
    """Penalise a student whose neighbours of a sample differ from its teacher's.

    ``mean over i, j of p_t log((p_t + e) / (p_s + e))`` with e = 1e-7 and p the rows of
    ``(cosine similarity + 1) / 2``, divided by their sums. Source:
    https://arxiv.org/abs/1803.10837.
    """

    def compare(self, student: np.ndarray, teacher: np.ndarray) -> _Pair:
        return probabilistic_transfer(student, teacher)


class CorrelationCongruenceLoss(_RelationLoss):
    """Penalise differences to the teacher that consecutive samples share.

    ``correlation_congruence`` of embeddings with the same number of values. Source:
    https://arxiv.org/abs/1904.01802.
    """

    same_values = True

    def compare(self, student: np.ndarray, teacher: np.ndarray) -> _Pair:
        return correlation_congruence(student, teacher)


class SampleGraphLoss(_RelationLoss):
    """Penalise a student whose graph over the samples differs from its teacher's.

    ``node_weight * mean of |x_s - x_t|^2 + edge_weight * mean over edges of (a_s - a_t)^2``, with
    embeddings x at length 1, ``a_ij = x_i . x_j``, and edges from each sample to its ``neighbours``
    most similar ones (0: all) in either graph.

    Settings: ``neighbours`` 0, ``node_weight`` 1, ``edge_weight`` 1.
    """

    known = {
        "neighbours": (count, 0),
        "node_weight": (number, 1.0),
        "edge_weight": (number, 1.0),
    }

    def check_settings(self, bottoms: int) -> None:
        self.refuse_below_0("node_weight", "edge_weight")
        self.same_values = bool(self.settings["node_weight"])

    def compare(self, student: np.ndarray, teacher: np.ndarray) -> _Pair:
        return sample_graph(student, teacher, **self.settings)
