"""Limits the norm of each unit's incoming weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from ...core.errors import SolverError
from ...net import Param
from ..callback import Callback
from ..options import Options

if TYPE_CHECKING:
    from ..solver import Solver

# The types whose first blob has one unit's incoming weights at each index of its first axis.
_TYPES = ("Convolution", "ConvolutionDepthwise", "DepthwiseConvolution", "InnerProduct")


class MaxNorm(Callback):
    """Scales each unit's incoming weights down to an L2 norm of at most ``limit``.

        w_u <- w_u * min(1, limit / ||w_u||)

    A unit is a row of an InnerProduct's weights (a column where they are stored with ``transpose``)
    or a filter of a Convolution. Biases and blobs with lr_mult 0 stay as they are.

    Args:
        limit: the greatest norm, above 0.
        params: the parameters of the net.

    Raises:
        SolverError: the limit is not above 0, or there are no such weights.

    Source: Srebro and Shraibman 2005; Hinton et al. 2012, https://arxiv.org/abs/1207.0580, who use
        it with dropout.
    """

    def __init__(self, limit: float, params: Sequence[Param], where: str | None = None) -> None:
        if not 0 < limit < math.inf:
            raise SolverError(
                f"max_norm must be above 0. Received: max_norm: {limit:g}. Leave it out for no "
                "limit",
                where,
            )
        self.limit = limit
        self._weights = [
            (p.blob, _unit_axis(p))
            for p in params
            if p.layer.type in _TYPES and p.index == 0 and p.blob.requires_grad
        ]
        if not self._weights:
            raise SolverError(
                "max_norm limits the weights of Convolution and InnerProduct layers, and the net "
                f"has none that learn. Received: max_norm: {limit:g}",
                where,
            )

    @torch.no_grad()
    def after_update(self, solver: Solver) -> None:
        """Scale down what is above the limit."""
        for blob, axis in self._weights:
            torch.renorm(blob, 2, axis, self.limit, out=blob)


def _unit_axis(param: Param) -> int:
    """Return the axis of a weight blob that indexes the units."""
    is_transposed = param.layer.type == "InnerProduct" and param.layer.param.transpose
    return 1 if is_transposed else 0


def build(solver: Solver, options: Options) -> Iterator[Callback]:
    """Yield the callback if the solver has ``max_norm``."""
    if solver.param.HasField("max_norm"):
        yield MaxNorm(solver.param.max_norm, solver.params, solver.plan.where("max_norm"))
