"""Convolution over more spatial axes than torch has kernels for: a sum over the first one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

Inner = Callable[[Tensor, Tensor], Tensor]


def convolve_first_axis(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    first: tuple[int, int, int],
    inner: Inner,
) -> Tensor:
    """Return a convolution of x (N, C, T, more axes...), given ``inner`` over those axes.

    Args:
        x: the bottom.
        weight: (outputs, channels / group, K, kernel of the other axes...).
        bias: (outputs), or None.
        first: stride, pad and dilation of axis T.
        inner: convolves (N, C, axes...) with a weight without axis K.
    """
    stride, pad, dilation = first
    x = F.pad(x, [0, 0] * (x.dim() - 3) + [pad, pad])
    count = (x.shape[2] - dilation * (weight.shape[2] - 1) - 1) // stride + 1
    total: Tensor | None = None
    for k in range(weight.shape[2]):
        start = k * dilation
        part = x[:, :, start : start + (count - 1) * stride + 1 : stride]
        # Each position along T is a sample of its own.
        rows = part.transpose(1, 2).flatten(0, 1)
        y = inner(rows, weight[:, :, k])
        y = y.reshape(len(x), count, *y.shape[1:]).transpose(1, 2)
        total = y if total is None else total + y
    assert total is not None
    return _with_bias(total, bias)


def deconvolve_first_axis(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    first: tuple[int, int, int],
    inner: Inner,
) -> Tensor:
    """Return the transposed map of ``convolve_first_axis``; weight is (channels, outputs, K, …)."""
    stride, pad, dilation = first
    count = x.shape[2]
    span = (count - 1) * stride + dilation * (weight.shape[2] - 1) + 1
    rows = x.transpose(1, 2).flatten(0, 1)
    total: Tensor | None = None
    for k in range(weight.shape[2]):
        y = inner(rows, weight[:, :, k])
        y = y.reshape(len(x), count, *y.shape[1:]).transpose(1, 2)
        if total is None:
            total = y.new_zeros(*y.shape[:2], span, *y.shape[3:])
        start = k * dilation
        positions = range(start, start + (count - 1) * stride + 1, stride)
        total = total.index_add(2, _index(positions, y), y)
    assert total is not None
    return _with_bias(total[:, :, pad : span - pad], bias)


def _index(positions: Sequence[int], like: Tensor) -> Tensor:
    return like.new_tensor(list(positions)).long()


def _with_bias(y: Tensor, bias: Tensor | None) -> Tensor:
    return y if bias is None else y + bias.reshape(-1, *[1] * (y.dim() - 2))
