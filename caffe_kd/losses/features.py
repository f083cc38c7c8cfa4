"""Distillation on features: what the maps of a student and its teacher look like inside."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Keeps a variance above 0, so that its logarithm and its inverse exist.
VARIANCE_FLOOR = 1e-5


def unit(x: Tensor, dim: int = -1) -> Tensor:
    """Return the vectors along ``dim`` normalised to length 1; those of length 0 stay 0.

    An epsilon in the divisor instead would give such vectors a gradient of the size of its inverse.
    """
    length = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / length.masked_fill(length == 0, 1)


def at_same_size(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return two batches of maps, in each direction the larger average-pooled to the smaller.

    Args:
        a: maps (N, C, H, W).
        b: maps (N, D, K, L).

    Returns:
        The maps with min(H, K) rows and min(W, L) columns.
    """
    size = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
    return _pooled(a, size), _pooled(b, size)


def _pooled(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if tuple(x.shape[2:]) == size else F.adaptive_avg_pool2d(x, size)


def hint(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over all values of ``(f_s - f_t)^2``.

    Args:
        student: features f_s of any shape, from a regressor where sizes differ from the teacher's.
        teacher: features f_t, as many.

    Returns:
        A scalar in squared units of the features, 0 or more.

    Source: Romero et al. 2015, FitNets: Hints for Thin Deep Nets,
        https://arxiv.org/abs/1412.6550, with a mean for its sum.
    """
    return F.mse_loss(student, teacher.reshape(student.shape))


def hint_norm(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the length of ``f_s - f_t`` over all values of the batch.

    Its gradient has length 1 wherever the two differ, and is 0 where they don't.

    Args:
        student: features f_s of any shape.
        teacher: features f_t, as many.

    Returns:
        A scalar in units of the features, 0 or more; of N samples about sqrt(N) times that of one.

    Source: Zhang et al. 2019, Be Your Own Teacher: Improve the Performance of Convolutional Neural
        Networks via Self Distillation, https://arxiv.org/abs/1905.08094, as the authors' code has
        it; the paper writes the square.
    """
    return torch.linalg.vector_norm(student - teacher.reshape(student.shape))


def attention(maps: Tensor) -> Tensor:
    """Return a net's attention map: ``n(mean over c of f_c^2)``, (N, H * W), rows of length 1."""
    return unit(maps.square().mean(1).flatten(1))


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """Return how far two nets' attention maps differ.

    ``a(f) = n(mean over c of f_c^2)``, with ``n`` for length 1 over the H * W positions, the larger
    map average-pooled to the smaller first; then the mean over samples and positions of
    ``(a(f_s) - a(f_t))^2``.

    Args:
        student: maps f_s (N, C, H, W).
        teacher: maps f_t (N, D, K, L).

    Returns:
        A scalar in 0..2 / (H * W).

    Source: Zagoruyko, Komodakis 2017, Paying More Attention to Attention,
        https://arxiv.org/abs/1612.03928; the mean is that of the authors' code.
    """
    student, teacher = at_same_size(student, teacher)
    return F.mse_loss(attention(student), attention(teacher))


def flow(first: Tensor, second: Tensor) -> Tensor:
    """Return the FSP matrix of two maps of one net: ``G_ij = mean over positions of a_i * b_j``.

    Args:
        first: maps a (N, C, H, W).
        second: maps b (N, D, K, L); the larger are average-pooled to the smaller.

    Returns:
        (N, C, D).
    """
    first, second = at_same_size(first, second)
    a, b = first.flatten(2), second.flatten(2)
    return a @ b.transpose(1, 2) / a.shape[2]


def fsp(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
    """Return how far two nets' flow matrices differ: the mean over all values of ``(G_s - G_t)^2``.

    Args:
        student: two maps of the student; G_s is their ``flow``.
        teacher: two maps of the teacher, with as many channels; G_t is theirs.

    Returns:
        A scalar in units of the features to the fourth, 0 or more.

    Source: Yim et al. 2017, A Gift from Knowledge Distillation (CVPR), with a mean for the
        sum.
    """
    return F.mse_loss(flow(*student), flow(*teacher))


def neuron_selectivity(student: Tensor, teacher: Tensor) -> Tensor:
    """Return how differently the channels of two nets are distributed over positions.

    With each channel at length 1 over the positions, a row of vectors, and ``k(a, b) = (a.b)^2``:
    ``mean k(t, t) + mean k(s, s) - 2 mean k(s, t)`` over all pairs of channels and the samples; the
    larger map is average-pooled to the smaller first. It is the squared maximum mean discrepancy of
    the two sets of channels, so they may differ in number.

    Args:
        student: maps (N, C, H, W).
        teacher: maps (N, D, K, L).

    Returns:
        A scalar in 0..2.

    Source: Huang, Wang 2017, Like What You Like: Knowledge Distill via Neuron Selectivity Transfer,
        https://arxiv.org/abs/1707.01219, with the polynomial kernel, d = 2, c = 0.
    """
    student, teacher = at_same_size(student, teacher)
    s, t = unit(student.flatten(2)), unit(teacher.flatten(2))
    return _selectivity(t, t) + _selectivity(s, s) - 2 * _selectivity(s, t)


def _selectivity(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.transpose(1, 2)).square().mean()


def variational_information(student: Tensor, teacher: Tensor, scale: Tensor) -> Tensor:
    """Return the negative log-likelihood of a teacher's features given a student's.

    ``mean of ((f_s - f_t)^2 / v + log v) / 2`` with ``v = softplus(scale) + 1e-5`` for each
    channel: without the constant log(2 pi) / 2, minus the log-likelihood of the teacher's features
    under a normal distribution whose mean the student gives.

    Args:
        student: f_s (N, C, ...), what a regressor makes of the student's features; maps of another
            size than the teacher's are pooled as in ``at_same_size``.
        teacher: f_t (N, C, ...).
        scale: (C), the variances before the softplus.

    Returns:
        A scalar in nats, of any sign.

    Source: Ahn et al. 2019, Variational Information Distillation for Knowledge Transfer,
        https://arxiv.org/abs/1904.05835.
    """
    if student.dim() == teacher.dim() == 4:
        student, teacher = at_same_size(student, teacher)
    else:
        teacher = teacher.reshape(student.shape)  # (N, C, 1, 1) and (N, C) would broadcast
    variance = F.softplus(scale) + VARIANCE_FLOOR
    variance = variance.reshape(-1, *[1] * (student.dim() - 2))
    return ((student - teacher).square() / variance + variance.log()).mean() / 2


def factor(maps: Tensor, power: int) -> Tensor:
    """Return ``n(mean over c of f_c^power)``, (N, H * W), rows of length 1; power 0: ``n(f)``."""
    return unit((maps.pow(power).mean(1) if power else maps).flatten(1))


def factor_transfer(student: Tensor, teacher: Tensor, p1: int = 2, p2: int = 1) -> Tensor:
    """Return how far two nets' factors differ: the mean of ``|F_s - F_t|^p2``.

    ``F = n(mean over c of f_c^p1)``, with ``n`` for length 1 over the positions; the larger map is
    average-pooled to the smaller first. With p1 = 0 ``F = n(f)`` over all channels and positions.

    Args:
        student: maps (N, C, H, W), the translator's in the paper.
        teacher: maps (N, D, K, L), the paraphraser's in the paper; D = C where p1 is 0.
        p1: 0 is the paper's.
        p2: at least 1.

    Returns:
        A scalar, 0 or more.

    Source: Kim, Park, Kwak 2018, Paraphrasing Complex Network: Network Compression via Factor
        Transfer, https://arxiv.org/abs/1802.04977, with a mean for the sum; p1 above 0 makes
        attention maps of the factors, as a common implementation has it.
    """
    student, teacher = at_same_size(student, teacher)
    return (factor(student, p1) - factor(teacher, p1)).abs().pow(p2).mean()


def activation_boundary(student: Tensor, teacher: Tensor, margin: float = 1.0) -> Tensor:
    """Return how far a student's neurons are on the wrong side of zero, compared to the teacher's.

    The sum of ``(s + m)^2`` where ``s > -m`` and ``t <= 0``, and of ``(s - m)^2`` where ``s <= m``
    and ``t > 0``, divided by N.

    Args:
        student: s (N, ...), before any ReLU.
        teacher: t, as many; only its sign counts, so after a ReLU does as well.
        margin: m, above 0: how far beyond zero is enough.

    Returns:
        A scalar in squared units of the student's features, 0 or more.

    Source: Heo et al. 2019, Knowledge Transfer via Distillation of Activation Boundaries Formed by
        Hidden Neurons, https://arxiv.org/abs/1811.03233.
    """
    fires = teacher.reshape(student.shape) > 0
    missing = torch.where(fires, margin - student, margin + student)
    return missing.clamp(min=0).square().sum() / len(student)
