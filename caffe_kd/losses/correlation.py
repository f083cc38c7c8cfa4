"""Distillation by correlation: a student whose outputs rank as its teacher's do."""

from __future__ import annotations

from torch import Tensor

from .normalization import split_at_axis
from .soft_targets import softmax_with_temperature

_LEAST_PRODUCT = 1e-8  # of deviations; as in the published code


def pearson(a: Tensor, b: Tensor, axis: int) -> Tensor:
    """Return the correlation of two tensors along an axis, which is dropped.

    ``sum of a' b' / (|a'| |b'| + 1e-8)`` with ``a' = a - mean``. Where one is constant it is 0.
    """
    a, b = (x - x.mean(axis, keepdim=True) for x in (a, b))
    return (a * b).sum(axis) / (a.norm(dim=axis) * b.norm(dim=axis) + _LEAST_PRODUCT)


def dist(
    student: Tensor, teacher: Tensor, *, temperature: float = 1.0, axis: int = 1
) -> tuple[Tensor, Tensor]:
    """Return how little two nets' probabilities correlate over classes, and over samples.

    With ``p = softmax(z / tau)``::

        over classes  tau^2 * mean over positions of (1 - pearson(p_s, p_t) along the classes)
        over samples  tau^2 * mean over classes of (1 - pearson(p_s, p_t) along the positions)

    Args:
        student: logits z_s with C classes along ``axis``.
        teacher: logits z_t of the same shape; detach them unless the teacher learns too.
        temperature: tau, above 0.
        axis: the class axis; the positions of all samples count equally.

    Returns:
        Two scalars, 0..2 tau^2 each. With a single position nothing varies over samples, and the
        second is tau^2, without gradient.

    Source: Huang et al. 2022, Knowledge Distillation from A Stronger Teacher,
        https://arxiv.org/abs/2205.10536; tau^2 as in its code.
    """
    outer, classes, inner = split_at_axis(tuple(student.shape), axis)
    p_s, p_t = (
        softmax_with_temperature(z.reshape(outer, classes, inner), temperature)
        .transpose(1, 2)
        .flatten(0, 1)
        for z in (student, teacher)
    )
    over_classes = (1 - pearson(p_s, p_t, 1)).mean()
    over_samples = (1 - pearson(p_s, p_t, 0)).mean()
    return temperature**2 * over_classes, temperature**2 * over_samples
