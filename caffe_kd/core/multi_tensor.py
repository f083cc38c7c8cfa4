"""Arithmetic on many tensors at once, by kernels of torch that have no public name.

They may be missing from a release of torch, take other arguments there, or not exist for a device;
the same is then computed tensor by tensor with public operations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Tensors = list[Tensor]

# Missing, with other arguments, not for this device or type: before anything has been computed.
_UNAVAILABLE = (AttributeError, TypeError, NotImplementedError)


def foreach(method: str, tensors: Sequence[Tensor], *operands: Any, **options: Any) -> list[Tensor]:
    """Call a method of every tensor: ``foreach("add_", params, history, alpha=0.9)``.

    Args:
        method: the name of a method of torch.Tensor.
        tensors: whose method it is.
        operands: each a number for all tensors or a sequence with one operand a tensor.
        options: keyword arguments of the method.

    Returns:
        The results; empty for some methods that change the tensors in place.
    """
    try:
        return list(getattr(torch, f"_foreach_{method}")(tensors, *operands, **options) or ())
    except _UNAVAILABLE:
        return [
            getattr(tensor, method)(
                *(o[index] if isinstance(o, Sequence) else o for o in operands), **options
            )
            for index, tensor in enumerate(tensors)
        ]


def sgd_(
    params: Tensors, grads: Tensors, history: Tensors, rate: float, momentum: float, decay: float
) -> None:
    """Take one step of SGD: ``h = momentum * h + rate * (g + decay * w); w -= h``.

    Torch's kernel has the rate outside the history; it computes the same at rate 1 from gradients
    and a decay that have been multiplied by the rate. It keeps no history without a momentum.
    """
    if momentum:
        divisor = torch.tensor(1 / rate if rate else math.inf, device=grads[0].device)
        try:
            torch._fused_sgd_(
                params,
                grads,
                history,
                weight_decay=rate * decay,
                momentum=momentum,
                lr=1.0,
                dampening=0.0,
                nesterov=False,
                maximize=False,
                is_first_step=False,
                grad_scale=divisor,
                found_inf=None,
            )
            return
        except _UNAVAILABLE:
            pass
    foreach("mul_", history, momentum)
    # Not alpha=rate: it has to be a float32, which a rate that makes the weights infinite is not.
    foreach("add_", history, foreach("mul", grads, rate))
    if decay:
        foreach("add_", history, foreach("mul", params, rate * decay))
    foreach("sub_", params, history)


def adam_(
    params: Tensors,
    grads: Tensors,
    moments: tuple[Tensors, Tensors],
    betas: tuple[float, float],
    rate: float,
    decay: float,
    delta: float,
    step: int,
) -> None:
    """Take one step of Adam, the ``step``-th counted from 1, with the gradient ``g + decay * w``.

    ``m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; w -= rate c m / (sqrt(v) + delta)`` with
    ``c = sqrt(1 - b2^step) / (1 - b1^step)``. The correction does not touch delta, unlike in torch;
    dividing delta by ``sqrt(1 - b2^step)`` makes torch's kernel compute the same.
    """
    first, second = moments
    beta1, beta2 = betas
    root = math.sqrt(1 - beta2**step)
    steps = torch.full((len(grads),), float(step), device=grads[0].device).unbind()
    try:
        torch._fused_adam_(
            params,
            grads,
            first,
            second,
            [],
            list(steps),
            lr=rate,
            beta1=beta1,
            beta2=beta2,
            weight_decay=decay,
            eps=delta / root,
            amsgrad=False,
            maximize=False,
        )
        return
    except _UNAVAILABLE:
        pass
    if decay:
        grads = foreach("add", grads, params, alpha=decay)
    foreach("mul_", first, beta1)
    foreach("add_", first, grads, alpha=1 - beta1)
    foreach("mul_", second, beta2)
    foreach("addcmul_", second, grads, grads, value=1 - beta2)
    roots = foreach("sqrt", second)
    foreach("add_", roots, delta)
    foreach("addcdiv_", params, first, roots, value=-rate * root / (1 - beta1**step))
