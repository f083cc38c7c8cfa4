"""The pull of batch normalisation's factors towards zero, which shows the channels that matter."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ...core.errors import SolverError
from ...net import Param
from ..callback import Callback
from ..options import Options

if TYPE_CHECKING:
    from ..solver import Solver

_SMALL = 0.01  # of the greatest factor: what the end's line counts


def scaling_layers(layers: Sequence[Any]) -> list[str]:
    """Return the names of the layers whose first blob is the factor of a batch normalisation.

    These are Scale layers that learn their factor and whose bottom a BatchNorm writes, and BN.

    Args:
        layers: those of a net of one phase, in order.
    """
    writers: dict[str, str] = {}
    names = []
    for layer in layers:
        is_scale = layer.type == "Scale" and len(layer.bottom) == 1
        if layer.type == "BN" or (is_scale and writers.get(layer.bottom[0]) == "BatchNorm"):
            names.append(layer.name)
        writers.update((top, layer.type) for top in layer.top)
    return names


class Slimming(Callback):
    """Add an L1 penalty on the factors of batch normalisation to the objective.

        objective + strength * sum of decay_mult * |gamma|

    as a subgradient: ``strength * decay_mult * sign(gamma)`` is added to the gradient before the
    update, where clipping counts it. Channels whose factor goes to zero can be removed.

    Args:
        strength: the weight of the penalty, above 0.
        params: the factors.

    Source: Liu et al. 2017, https://arxiv.org/abs/1708.06519.
    """

    def __init__(self, strength: float, params: Sequence[Param]) -> None:
        self.strength = strength
        self._params = params

    @torch.no_grad()
    def before_update(self, solver: Solver) -> None:
        """Add the penalty's gradient; gradients are sums over iter_size passes here."""
        times = self.strength * solver.param.iter_size
        for param in self._params:
            blob = param.blob
            if blob.grad is None:
                blob.grad = torch.zeros_like(blob)
            blob.grad.add_(blob.sign(), alpha=times * param.decay_mult)

    def on_end(self, solver: Solver) -> None:
        """Log how many factors have become small."""
        factors = torch.cat([param.blob.detach().abs().flatten() for param in self._params])
        small = int((factors < _SMALL * factors.max()).sum())
        solver.log.info(
            f"Slimming: {small} of {len(factors)} factors are below {_SMALL:.0%} of the greatest. "
            "caffe_kd prune -criterion BN_SCALE removes channels by them"
        )


def build(solver: Solver, options: Options) -> Iterator[Callback]:
    """Yield the callback if the solver has ``slimming``.

    Raises:
        SolverError: it is not a number of at least 0, or the student has no such factors.
    """
    strength = solver.param.slimming
    where = solver.plan.where("slimming")
    if not 0 <= strength < math.inf:
        raise SolverError(
            f"slimming must be 0 or more. Received: slimming: {strength:g}. 1e-4 is usual", where
        )
    if not strength:
        return
    own = {layer.name for layer in solver.plan.student.layer}
    names = own.intersection(scaling_layers(solver.net.param.layer))
    params = [
        p
        for p in solver.params
        if p.layer.name in names and p.index == 0 and p.blob.requires_grad and p.decay_mult
    ]
    if not params:
        raise SolverError(
            "slimming acts on the factors of Scale layers that stand behind a BatchNorm and of BN, "
            "and the student has none that learn with a decay_mult other than 0. Received: "
            f"slimming: {strength:g}. Leave it out",
            where,
        )
    yield Slimming(strength, params)
