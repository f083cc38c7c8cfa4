"""Functions with another gradient than their own, as some of Caffe's layers have."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor


class _Capped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, most: float) -> Tensor:
        return values.clamp(max=most)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def capped(values: Tensor, most: float) -> Tensor:
    """Return ``min(values, most)`` with the gradient of ``values``, also where they are clamped."""
    return cast(Tensor, _Capped.apply(values, most))  # type: ignore[no-untyped-call]


def scale_gradient(values: Tensor, factor: float) -> Tensor:
    """Return ``values`` with ``factor`` times their gradient."""
    return cast(Tensor, _Scaled.apply(values, factor))  # type: ignore[no-untyped-call]
