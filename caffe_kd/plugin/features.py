"""Losses on features: the maps inside a student and its teacher."""

from typing import Any, List, Sequence, Tuple

import numpy as np

from .base import LossLayer, Shape, count, number, one_of

VARIANCE_FLOOR = 1e-5  # keeps a variance above 0

_Pair = Tuple[float, np.ndarray]  # a loss, and its gradient to the student's values


# ---- helpers


def unit(x: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Return the vectors along the last axis at length 1, and their divisors.

    Vectors of length 0 are unchanged.
    """
    length = np.sqrt((x**2).sum(axis=-1, keepdims=True))
    length[length == 0] = 1
    return x / length, length


def unit_gradient(y: np.ndarray, length: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Return the gradient to x of ``y, length = unit(x)``, given that to y."""
    return (gradient - y * (y * gradient).sum(axis=-1, keepdims=True)) / length


def pooling(before: int, after: int) -> np.ndarray:
    """Return the matrix (after, before) that averages an axis down to fewer positions.

    Position i averages those from ``floor(i * before / after)`` to below
    ``ceil((i + 1) * before / after)``.
    """
    matrix = np.zeros((after, before))
    for i in range(after):
        first, end = i * before // after, -(-(i + 1) * before // after)
        matrix[i, first:end] = 1.0 / (end - first)
    return matrix


class Pooled:
    """Maps (N, C, H, W), average-pooled to a smaller size, with the backward pass of that."""

    def __init__(self, maps: np.ndarray, size: Sequence[int]) -> None:
        self._rows, self._columns = (
            None if old == new else pooling(old, new) for old, new in zip(maps.shape[2:], size)
        )
        if self._rows is not None:
            maps = np.matmul(self._rows, maps)
        if self._columns is not None:
            maps = np.matmul(maps, self._columns.T)
        self.maps = maps

    def back(self, gradient: np.ndarray) -> np.ndarray:
        """Return the gradient to the maps before pooling."""
        gradient = gradient.reshape(self.maps.shape)
        if self._columns is not None:
            gradient = np.matmul(gradient, self._columns)
        if self._rows is not None:
            gradient = np.matmul(self._rows.T, gradient)
        return gradient


def at_same_size(a: np.ndarray, b: np.ndarray) -> Tuple[Pooled, Pooled]:
    """Return two batches of maps, along each axis the larger average-pooled to the smaller."""
    size = tuple(np.minimum(a.shape[2:], b.shape[2:]))
    return Pooled(a, size), Pooled(b, size)


# ---- the formulas


def hint(student: np.ndarray, teacher: np.ndarray, distance: str = "MEAN_SQUARE") -> _Pair:
    """Return the mean of ``(f_s - f_t)^2``, or for distance NORM the length of ``f_s - f_t``."""
    off = student - teacher.reshape(student.shape)
    if distance == "NORM":
        length = float(np.sqrt((off**2).sum()))
        return length, off / (length or 1.0)
    return float((off**2).mean()), 2 * off / off.size


def factor(maps: np.ndarray, power: int) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ``n(mean over c of f_c^power)``, or ``n(f)`` for power 0, (N, -1), by ``unit``.

    The third result is the derivative of the mean with respect to the maps.
    """
    if not power:
        return (*unit(maps.reshape(len(maps), -1)), np.ones_like(maps))
    rows = (maps**power).mean(axis=1).reshape(len(maps), -1)
    return (*unit(rows), power * maps ** (power - 1) / maps.shape[1])


def factor_transfer(student: np.ndarray, teacher: np.ndarray, p1: int = 2, p2: int = 1) -> _Pair:
    """Return the mean of ``|F_s - F_t|^p2`` with ``F = factor(f, p1)``.

    Attention transfer is the case p1 = p2 = 2.
    """
    small, other = at_same_size(student, teacher)
    f_s, length, derivative = factor(small.maps, p1)
    off = f_s - factor(other.maps, p1)[0]
    slope = p2 * np.abs(off) ** (p2 - 1) * np.sign(off) / off.size
    rows = unit_gradient(f_s, length, slope)
    shape = small.maps.shape
    rows = rows.reshape(shape if not p1 else (shape[0], 1, *shape[2:]))
    return float((np.abs(off) ** p2).mean()), small.back(rows * derivative)


def neuron_selectivity(student: np.ndarray, teacher: np.ndarray) -> _Pair:
    """Return ``mean k(t, t) + mean k(s, s) - 2 mean k(s, t)`` with ``k(a, b) = (a.b)^2``.

    The vectors are the channels, each at length 1 over the positions.
    """
    small, other = at_same_size(student, teacher)
    (s, length), (t, _) = (unit(x.maps.reshape(*x.maps.shape[:2], -1)) for x in (small, other))
    ss, tt, st = (np.matmul(a, b.transpose(0, 2, 1)) for a, b in ((s, s), (t, t), (s, t)))
    value = (tt**2).mean() + (ss**2).mean() - 2 * (st**2).mean()
    gradient = 4 * (np.matmul(ss, s) / ss.size - np.matmul(st, t) / st.size)
    return float(value), small.back(unit_gradient(s, length, gradient))


def activation_boundary(student: np.ndarray, teacher: np.ndarray, margin: float = 1.0) -> _Pair:
    """Return how far neurons are on the wrong side of zero, as in ABLoss."""
    sign = np.where(teacher.reshape(student.shape) > 0, -1.0, 1.0)
    missing = np.maximum(margin + sign * student, 0)
    return float((missing**2).sum() / len(student)), 2 * sign * missing / len(student)


def flow(first: Pooled, second: Pooled) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ``G_ij = mean over positions of a_i * b_j``, and a and b as rows."""
    a, b = (x.maps.reshape(*x.maps.shape[:2], -1) for x in (first, second))
    return np.matmul(a, b.transpose(0, 2, 1)) / a.shape[2], a, b


def variational_information(
    student: np.ndarray, teacher: np.ndarray, scale: np.ndarray
) -> Tuple[float, np.ndarray, np.ndarray]:
    """Return ``mean of ((f_s - f_t)^2 / v + log v) / 2`` with ``v = softplus(scale) + 1e-5``.

    The gradients are those to the student's features, of the teacher's size, and to the scale.
    """
    shape = (1, -1, *[1] * (student.ndim - 2))
    variance = (np.logaddexp(0, scale) + VARIANCE_FLOOR).reshape(shape)
    off = student - teacher
    value = float((off**2 / variance + np.log(variance)).mean() / 2)
    axes = tuple(i for i in range(off.ndim) if i != 1)
    to_variance = ((1 / variance - (off / variance) ** 2) / off.size / 2).sum(axis=axes)
    return value, off / variance / off.size, to_variance / (1 + np.exp(-scale))


# ---- the layers


class _FeatureLoss(LossLayer):
    """A loss on features (N, ...), the student's and the teacher's."""

    maps = False  # whether the features must have 4 axes

    def check_shapes(self, shapes: List[Shape]) -> None:
        for shape in shapes:
            if self.maps and len(shape) != 4:
                self.refuse(f"needs maps of 4 axes (N, C, H, W). Received: {shape}")
            if len(shape) < 2 or shape[0] != shapes[0][0]:
                self.refuse(
                    "features must have at least 2 axes (N, ...), and all the same number of "
                    f"samples. Received: {', '.join(map(str, shapes))}"
                )

    def check_same(self, axis: int, pairs: Sequence[Tuple[Shape, Shape]]) -> None:
        """Refuse pairs that differ in the product of their sizes up to an axis."""
        for student, teacher in pairs:
            if np.prod(student[1:axis], dtype=int) != np.prod(teacher[1:axis], dtype=int):
                what = "channels" if axis == 2 else "values per sample"
                self.refuse(
                    f"student and teacher must have the same number of {what}. "
                    f"Received: {student} and {teacher}"
                )


class HintLoss(_FeatureLoss):
    """Penalise the distance of a student's features to its teacher's.

    ``loss = mean over all values of (f_s - f_t)^2``, with ``distance: NORM`` the square root of
    their sum. Bottoms: the student's features (N, ...), the teacher's, with as many values.

    Settings: ``distance`` MEAN_SQUARE (or NORM). Source: https://arxiv.org/abs/1412.6550.
    """

    known = {"distance": (one_of("MEAN_SQUARE", "NORM"), "MEAN_SQUARE")}

    def check_shapes(self, shapes: List[Shape]) -> None:
        super().check_shapes(shapes)
        self.check_same(99, [(shapes[0], shapes[1])])
        if len(shapes[0]) == len(shapes[1]) == 4 and shapes[0] != shapes[1]:
            self.refuse(f"maps must have the same shape. Received: {shapes[0]} and {shapes[1]}")

    def loss(self, values: List[np.ndarray]) -> Tuple[float, List[np.ndarray]]:
        value, gradient = hint(values[0], values[1], **self.settings)
        return value, [gradient]


class FactorTransferLoss(_FeatureLoss):
    """Penalise the distance of a student's factors to its teacher's, ``factor_transfer``.

    Bottoms: the student's maps (N, C, H, W), the teacher's (N, D, K, L), D = C where p1 is 0.

    Settings: ``p1`` 2, ``p2`` 1. Source: https://arxiv.org/abs/1802.04977.
    """

    known = {"p1": (count, 2), "p2": (count, 1)}
    maps = True

    def check_settings(self, bottoms: int) -> None:
        if self.settings.get("p2") == 0:
            self.refuse("p2 must be at least 1")

    def check_shapes(self, shapes: List[Shape]) -> None:
        super().check_shapes(shapes)
        if self.settings.get("p1") == 0:
            self.check_same(2, [(shapes[0], shapes[1])])

    def loss(self, values: List[np.ndarray]) -> Tuple[float, List[np.ndarray]]:
        value, gradient = factor_transfer(values[0], values[1], **self.settings)
        return value, [gradient]


class AttentionTransferLoss(_FeatureLoss):
    """Penalise a student whose attention maps differ from its teacher's.

    ``a(f) = n(mean over c of f_c^2)`` with ``n`` for length 1 over the positions, the larger maps
    average-pooled to the smaller; the loss is the mean of ``(a(f_s) - a(f_t))^2``.

    Bottoms: the student's maps (N, C, H, W), the teacher's (N, D, K, L).
    Source: https://arxiv.org/abs/1612.03928.
    """

    maps = True

    def loss(self, values: List[np.ndarray]) -> Tuple[float, List[np.ndarray]]:
        value, gradient = factor_transfer(values[0], values[1], p1=2, p2=2)
        return value, [gradient]


class NSTLoss(_FeatureLoss):
    """Penalise a student whose channels are active at other positions, ``neuron_selectivity``.

    Bottoms: the student's maps (N, C, H, W), the teacher's (N, D, K, L); the larger are
    average-pooled to the smaller. Source: https://arxiv.org/abs/1707.01219.
    """

    maps = True

    def loss(self, values: List[np.ndarray]) -> Tuple[float, List[np.ndarray]]:
        value, gradient = neuron_selectivity(*values)
        return value, [gradient]


class VIDLoss(_FeatureLoss):
    """Penalise what a student's features fail to predict, ``variational_information``.

    Bottoms: mu (N, C, ...), a regressor's output for the student's features; the teacher's, of the
    same shape; of maps the larger are average-pooled to the smaller. Blob: the scale (C), which
    is trained; ``param { decay_mult: 0 }`` keeps weight decay off it.

    Settings: ``initial_variance`` 5. Source: https://arxiv.org/abs/1904.05835.
    """

    known = {"initial_variance": (number, 5.0)}

    def check_settings(self, bottoms: int) -> None:
        if not VARIANCE_FLOOR < self.settings["initial_variance"] < np.inf:
            self.refuse("initial_variance must be above 1e-05")

    def setup(self, bottom: Any, top: Any) -> None:
        super().setup(bottom, top)
        if not len(self.blobs):
            above = self.settings["initial_variance"] - VARIANCE_FLOOR
            self.blobs.add_blob(int(bottom[1].shape[1]))
            self.blobs[0].data[...] = above + np.log(-np.expm1(-above))  # the inverse of softplus

    def check_shapes(self, shapes: List[Shape]) -> None:
        super().check_shapes(shapes)
        self.check_same(2, [(shapes[0], shapes[1])])
        if not len(shapes[0]) == len(shapes[1]) == 4:
            self.check_same(99, [(shapes[0], shapes[1])])

    def loss(self, values: List[np.ndarray]) -> Tuple[float, List[np.ndarray]]:
        scale = np.asarray(self.blobs[0].data, dtype=np.float64)
        student, teacher = values
        if student.ndim == teacher.ndim == 4:
            small, other = at_same_size(student, teacher)
            value, found, self.to_scale = variational_information(small.maps, other.maps, scale)
            return value, [small.back(found)]
        teacher = teacher.reshape(student.shape)
        value, found, self.to_scale = variational_information(student, teacher, scale)
        return value, [found]

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        super().backward(top, propagate_down, bottom)
        self.blobs[0].diff[...] += self.to_scale * float(top[0].diff.reshape(-1)[0])


class ABLoss(_FeatureLoss):
    """Penalise neurons that are active where the teacher's are not, or the reverse.

    The sum of ``(s + m)^2`` where the teacher's is 0 or less and s > -m, and of ``(s - m)^2`` where
    it is above 0 and s <= m, divided by N. Bottoms: the student's features (N, ...) before any
    ReLU, the teacher's, of the same shape.

    Settings: ``margin`` 1. Source: https://arxiv.org/abs/1811.03233.
    """

    known = {"margin": (number, 1.0)}

    def check_settings(self, bottoms: int) -> None:
        if not 0 < self.settings["margin"] < np.inf:
            self.refuse("margin must be above 0")

    def check_shapes(self, shapes: List[Shape]) -> None:
        super().check_shapes(shapes)
        for axis in (2, 99):
            self.check_same(axis, [(shapes[0], shapes[1])])

    def loss(self, values: List[np.ndarray]) -> Tuple[float, List[np.ndarray]]:
        value, gradient = activation_boundary(values[0], values[1], **self.settings)
        return value, [gradient]


class FSPLoss(_FeatureLoss):
    """Penalise a student whose flow of solution procedure (FSP) differs from its teacher's.

    The mean of ``(G_s - G_t)^2``, with ``flow`` G between two maps of a net. Bottoms: two maps of
    the student, then the teacher's two, with the same numbers of channels; within a net the larger
    map is average-pooled to the smaller. Source: Yim et al. 2017 (CVPR).
    """

    bottoms = (4,)
    students = 2
    maps = True

    def check_shapes(self, shapes: List[Shape]) -> None:
        super().check_shapes(shapes)
        self.check_same(2, list(zip(shapes[:2], shapes[2:])))

    def loss(self, values: List[np.ndarray]) -> Tuple[float, List[np.ndarray]]:
        first, second = at_same_size(*values[:2])
        g_s, a, b = flow(first, second)
        off = g_s - flow(*at_same_size(*values[2:]))[0]
        gradient = 2 * off / off.size / a.shape[2]
        to_first = first.back(np.matmul(gradient, b))
        to_second = second.back(np.matmul(gradient.transpose(0, 2, 1), a))
        return float((off**2).mean()), [to_first, to_second]
