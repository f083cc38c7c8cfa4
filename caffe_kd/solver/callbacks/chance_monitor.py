"""Warns at the end of a training that has learned nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ...net import LayerNode, Net
from ..callback import Callback
from ..options import Options

if TYPE_CHECKING:
    from ..solver import Solver

_UPDATES = 200  # a shorter training may not have learned anything yet
_NEAR = 0.03  # of ln(classes); a net that has learned a little is further below
_BETTER = 1.5  # an accuracy this many times that of guessing comes from learning


class ChanceMonitor(Callback):
    """Compares the loss of the last test, or else batch, with that of guessing, ln(classes)."""

    def __init__(self) -> None:
        self._start = 0
        self._tests: Sequence[Mapping[str, Sequence[float]]] = ()
        self._tested = 0

    def on_start(self, solver: Solver) -> None:
        """Store this run's first iteration."""
        self._start = solver.iter

    def on_test(self, solver: Solver, results: Sequence[dict[str, list[float]]]) -> None:
        """Store the results."""
        self._tests, self._tested = results, solver.iter

    def on_end(self, solver: Solver) -> None:
        """Warn if the loss is no better than guessing."""
        if solver.stopped or solver.iter - self._start < _UPDATES:
            return
        found = None
        if self._tested - self._start >= _UPDATES:
            pairs = zip(solver.test_nets, self._tests, strict=True)
            found = next((f for f in (_guessing(net, values) for net, values in pairs) if f), None)
        else:
            blobs = solver.net.blobs
            values = {n: [float(blobs[n].detach())] for n in _losses(solver.net) if n in blobs}
            found = _guessing(solver.net, values)
        if found is not None:
            solver.log.warning(
                f"After {solver.iter} iterations the loss is still that of guessing: {found}. "
                f"{_dead(solver.net)}Likely causes: pixels of 0 to 255 without a scale "
                "(transform_param { scale: 0.00390625 }), a base_lr that is too large or far too "
                "small, layers without a weight_filler, or labels that do not match the data"
            )


def _losses(net: Net) -> dict[str, LayerNode]:
    """Return the classification losses, by top."""
    return {node.tops[0]: node for node in net.nodes if node.layer.type == "SoftmaxWithLoss"}


def _guessing(net: Net, values: Mapping[str, Sequence[float]]) -> str | None:
    """Return a description of a loss that is no better than guessing; None if there is none."""
    for name, node in _losses(net).items():
        shape = net.shapes[node.bottoms[0]]
        classes = shape[1] if len(shape) > 1 else 1
        if name not in values or classes < 2:
            continue
        (loss,), chance = values[name], math.log(classes)
        right = [
            value
            for other in net.nodes
            if other.layer.type == "Accuracy" and other.bottoms[0] == node.bottoms[0]
            for value in values.get(other.tops[0], ())
        ]
        if abs(loss - chance) <= _NEAR * chance and all(v <= _BETTER / classes for v in right):
            return f"{name} = {loss:g}, and ln({classes}) = {chance:g}"
    return None


def _dead(net: Net) -> str:
    """Return a sentence about ReLU layers that output only zeros."""
    relus = [node for node in net.nodes if node.layer.type == "ReLU" and node.tops[0] in net.blobs]
    dead = [f"'{s.layer.name}'" for s in relus if float(net.blobs[s.tops[0]].detach().max()) <= 0]
    return f"The ReLU of {', '.join(dead)} outputs only zeros. " if dead else ""


def build(solver: Solver, options: Options) -> Iterator[Callback]:
    """Yield the callback if a net has a classification loss."""
    if any(_losses(net) for net in solver.nets):
        yield ChanceMonitor()
