"""Fake quantisation: float32 values rounded to those that integers of few bits can stand for.

Values that a layer reads have ``2^bits`` levels from 0 on, one of which is the value 0; weights
have levels from -m to m, m = 2^(bits-1) - 1, and a step for each output channel. Gradients go
through the rounding as if it were not there (straight-through), and are 0 where a value is cut off.

What is divided is divided truly, not multiplied by a reciprocal, as ONNX's QuantizeLinear does: so
the two round alike. torch.fake_quantize_per_tensor_affine does not, and takes 7 times as long on a
CPU.

Source: Jacob et al. 2018, https://arxiv.org/abs/1712.05877; Esser et al. 2020 (LSQ),
https://arxiv.org/abs/1902.08153.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FLOAT = 32  # the bits of what is not rounded
BITS = range(2, 9)
FEW_BITS = 4  # up to which the greatest magnitude makes too coarse a step for weights
LEAST_STEP = 1e-6  # also of values that are all 0
_BIAS_LEVEL = 2.0**30  # what int32 and float32 can both count to
_CUTS = 40

_Limit = Any  # a level, as a number or as a tensor


def top_level(bits: int) -> int:
    """Return the highest level of a value that is read: ``2^bits - 1``."""
    return int(2**bits - 1)


def weight_level(bits: int) -> int:
    """Return the greatest magnitude of a weight's level: ``2^(bits - 1) - 1``."""
    return int(2 ** (bits - 1) - 1)


def step_and_zero(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return the step of values from ``low`` to ``high``, and the level that is 0.

    step = (max(high, 0) - min(low, 0)) / (2^bits - 1);  zero = round(-min(low, 0) / step)
    """
    low, high = low.clamp(max=0), high.clamp(min=0)
    step = ((high - low) / top_level(bits)).clamp(min=LEAST_STEP)
    return step, (-low / step).round().clamp(0, top_level(bits))


def values(x: Tensor, step: Tensor, zero: Tensor, bits: int) -> Tensor:
    """Round values that a layer reads: ``step (clamp(round(x / step) + zero) - zero)``."""
    per_sample = x.numel() / max(1, x.shape[0]) if x.dim() else 1
    scale = (per_sample * top_level(bits)) ** -0.5
    return _round(x, step, -zero, top_level(bits) - zero, scale)


def weights(weight: Tensor, steps: Tensor, bits: int, axis: int = 0) -> Tensor:
    """Round weights: ``step_c clamp(round(w / step_c), -m, m)`` for each channel c of an axis."""
    most = weight_level(bits)
    scale = (weight.numel() / max(1, steps.numel()) * most) ** -0.5
    return _round(weight, along(steps, axis, weight.dim()), -most, most, scale)


def biases(bias: Tensor, steps: Tensor) -> Tensor:
    """Round a bias to integers times ``steps``, those of the sums it is added to."""
    return bias + (bias_levels(bias, steps) * steps - bias).detach()


def bias_levels(bias: Tensor, steps: Tensor) -> Tensor:
    """Return the integers that a bias is rounded to, of 31 bits."""
    return (bias / steps).round().clamp(-_BIAS_LEVEL, _BIAS_LEVEL)


def along(steps: Tensor, axis: int, dims: int) -> Tensor:
    """Return steps, one for each index of an axis, in a shape that fits a tensor of ``dims``."""
    return steps.view([-1 if i == axis else 1 for i in range(dims)])


@torch.no_grad()
def weight_steps(weight: Tensor, bits: int, axis: int = 0) -> Tensor:
    """Return the steps of weights, one for each channel of an axis.

    With more than 4 bits they let the greatest magnitude through; with fewer they are those, of 40
    shares of it, that leave the least mean square error.
    """
    rows = weight.detach().transpose(0, axis).flatten(1)
    full = (rows.abs().amax(1) / weight_level(bits)).clamp(min=LEAST_STEP)
    if bits > FEW_BITS:
        return full
    best, least = full, torch.full_like(full, torch.inf)
    for cut in range(_CUTS, 0, -1):
        steps = full * (cut / _CUTS)
        error = (weights(rows, steps, bits) - rows).square().sum(1)
        best, least = torch.where(error < least, steps, best), torch.minimum(error, least)
    return best


def _round(x: Tensor, step: Tensor, low: _Limit, high: _Limit, gradient_scale: float) -> Tensor:
    rounded: Tensor = _Round.apply(x, step, low, high, gradient_scale)  # type: ignore[no-untyped-call]
    return rounded


class _Round(torch.autograd.Function):
    """``step clamp(round(x / step), low, high)``, straight-through; LSQ's gradient for the step."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, step: Tensor, low: _Limit, high: _Limit, gradient_scale: float
    ) -> Tensor:
        scaled = x / step
        levels = scaled.round()
        cut = levels.clamp(low, high)
        inside = levels == cut
        ctx.gradient_scale = gradient_scale
        if step.requires_grad:
            # d/d step: level - x / step inside, the level at the end that cuts outside
            ctx.save_for_backward(inside, cut - scaled.mul_(inside), step)
        else:
            ctx.save_for_backward(inside)
        return cut * step

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inside, *learned = ctx.saved_tensors
        of_x = gradient * inside if ctx.needs_input_grad[0] else None
        if not learned:
            return of_x, None, None, None, None
        slope, step = learned
        of_step = (gradient * slope).sum_to_size(step.shape) * ctx.gradient_scale
        return of_x, of_step, None, None, None
