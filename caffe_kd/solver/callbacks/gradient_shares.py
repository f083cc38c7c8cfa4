"""Logs the share of each term of the objective in the student's gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...layers.base import tops_of
from ...net import AUTOMATIC_TOP, LayerNode, Net
from ..callback import Callback
from ..options import Options

if TYPE_CHECKING:
    from ..solver import Solver


class GradientShares(Callback):
    """Measures, at an interval of iterations, the gradient of each term by itself.

    With g_i the gradient of term i, including its weight, with respect to all of the student's
    parameters that learn (the mean over iter_size passes)::

        norm_i = |g_i|        share_i = norm_i / sum over all terms j of norm_j

    A layer whose loss is a sum, as DistillingLoss with a label, has a term for each summand:
    ``<top>/soft``, ``<top>/hard``. Weight decay is not a term. Shares compare norms: two
    terms of equal share may still pull in opposite directions.

    Each measurement takes an additional backward pass per term; other iterations cost nothing more.
    The gradients of the update are unchanged, bit for bit.

    Args:
        net: the train net.
        params: the student's parameters.
        every: the interval between two measurements, in iterations; above 0.
        notify: logs a line.

    Attributes:
        iteration: the iteration of the last measurement; None before the first.
        shares: its shares, by term.
    """

    def __init__(
        self, net: Net, params: Sequence[Tensor], every: int, notify: Callable[[str], None]
    ) -> None:
        self.params = [p for p in params if p.requires_grad]
        self.every = every
        self.notify = notify
        self.measuring = False
        self.iteration: int | None = None
        self.shares: dict[str, float] = {}
        self._passes = 0
        self._terms: dict[str, Tensor] = {}  # of this pass
        self._sums: dict[str, list[Tensor | None]] = {}  # of gradients, over the passes
        for node in net.nodes:
            if has_loss_weight(node):
                node.layer.register_forward_hook(self._after_layer(node))

    def before_forward(self, solver: Solver) -> None:
        """Begin an iteration."""
        self.measuring = bool(self.params) and solver.iter % self.every == 0
        solver.retain_graph = self.measuring
        self._passes = 0
        self._terms.clear()
        self._sums.clear()

    def _after_layer(self, node: LayerNode) -> Callable[[Any, tuple[Tensor, ...], Any], None]:
        def hook(layer: Any, bottoms: tuple[Tensor, ...], result: Any) -> None:
            if not self.measuring or not torch.is_grad_enabled():
                return
            self._terms |= weighted_terms(node, bottoms, tops_of(result))

        return hook

    def after_backward(self, solver: Solver) -> None:
        """Add the gradients of a pass's terms, whose graph is retained; log after the last pass."""
        if not self.measuring:
            return
        self._passes += 1
        for name, term in self._terms.items():
            sums = self._sums.setdefault(name, [None] * len(self.params))
            if term.requires_grad:
                found = torch.autograd.grad(term, self.params, retain_graph=True, allow_unused=True)
                for index, (so_far, new) in enumerate(zip(sums, found, strict=True)):
                    if new is not None:
                        sums[index] = new if so_far is None else so_far + new
        self._terms.clear()
        if self._passes == solver.param.iter_size:
            self.measuring = False
            self._log(solver.iter)
            self._sums.clear()

    def _log(self, iteration: int) -> None:
        """Log the shares of an iteration."""
        norms = {name: self._norm(sums) for name, sums in self._sums.items()}
        total = sum(norms.values())
        self.iteration = iteration
        self.shares = {name: norm / total if total else 0.0 for name, norm in norms.items()}
        count = sum(p.numel() for p in self.params)
        self.notify(f"Iteration {iteration}, gradient shares in {count} parameters of the student")
        for name, norm in norms.items():
            self.notify(f"    Gradient share: {name} = {self.shares[name]:.4g} (norm {norm:.4g})")

    def _norm(self, sums: Sequence[Tensor | None]) -> float:
        squares = sum(float(g.double().square().sum()) for g in sums if g is not None)
        return math.sqrt(squares) / self._passes


def has_loss_weight(node: LayerNode) -> bool:
    """Return whether a layer has a part in the objective, in this iteration or another."""
    return any(node.loss_weights) or node.layer.proto.HasField("loss_weight_schedule")


def weighted_terms(
    node: LayerNode, bottoms: Sequence[Tensor], tops: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Return a layer's terms of the objective by name, each multiplied by its weight."""
    terms: dict[str, Tensor] = {}
    for name, top, weight in zip(node.tops, tops, node.loss_weights, strict=True):
        name = node.layer.name if name == AUTOMATIC_TOP else name
        parts = node.layer.terms(*bottoms) if weight and top is tops[0] else {}
        for part, value in parts.items():
            terms[f"{name}/{part}"] = weight * value.sum()
        if weight and not parts:
            terms[name] = weight * top.sum()
    return terms


def build(solver: Solver, options: Options) -> Iterator[Callback]:
    """Yield the callback if ``gradient_shares`` asks for it."""
    if options.gradient_shares:
        names = {layer.name for layer in solver.plan.student.layer}
        blobs = [p.blob for p in solver.params if p.layer.name in names]
        yield GradientShares(solver.net, blobs, options.gradient_shares, solver.log.info)
