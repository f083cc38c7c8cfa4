"""Batch normalisation's kept statistics: how far they are off, and refreshing them.

In TRAIN a BatchNorm divides by its batch, in TEST by running averages, over
about 1 / (1 - moving_average_fraction) batches, in which the weights moved. In a short training, or
where the rate falls steeply, the averages belong to an earlier net, and a good net tests badly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..core.errors import NetError
from ..layers import Layer
from ..layers.shared.batch_statistics import BatchStatistics, Totals
from . import LayerNode, Net

LAGGING = 0.2  # a ``Change.lag`` from which on a test by kept statistics can be far too low
_SET_BY_PROGRAM = ("Python", "Input")  # types whose data comes from a program


@dataclass
class Change:
    """A layer's kept statistics beside those that its net has with the weights as they are.

    Attributes:
        layer: the layer.
        kept: mean and variance of each channel as kept before.
        now: their averages over batches that were run with fixed weights.
    """

    layer: BatchStatistics
    kept: tuple[Tensor, Tensor]
    now: tuple[Tensor, Tensor]

    @property
    def shift(self) -> float:
        """The median over the channels of how far the mean is off, in standard deviations."""
        (before, _), (mean, var) = self.kept, self.now
        return float(((before - mean).abs() / (var + self.layer.eps).sqrt()).median())

    @property
    def ratio(self) -> float:
        """The median over the channels of the kept variance, divided by that of now."""
        eps = self.layer.eps
        return float(((self.kept[1] + eps) / (self.now[1] + eps)).median())

    @property
    def lag(self) -> float:
        """How far it is off: the mean in deviations, or the variance by its ratio less 1."""
        ratio = self.ratio
        return max(self.shift, abs(ratio - 1), 1 / ratio - 1 if ratio > 0 else 0.0)

    def __str__(self) -> str:
        """Describe it in words."""
        return (
            f"layer '{self.layer.name}' ({self.layer.type}): the kept variance was "
            f"{self.ratio:.3g} times that of now, the mean off by {self.shift:.3g} standard "
            "deviations (medians over the channels)"
        )


def following(net: Net) -> list[BatchStatistics]:
    """Return the layers that normalise by each batch and keep averages of them for TEST."""
    layers = [node.layer for node in net.nodes]
    return [x for x in layers if isinstance(x, BatchStatistics) and x.follows]


def measure(
    net: Net, iterations: int, layers: Sequence[BatchStatistics] | None = None
) -> list[Change]:
    """Run batches of a net's data with fixed weights; return what its layers see in them.

    The net is left as it was: kept statistics, blobs, position in the data, random numbers.

    Args:
        net: the net.
        iterations: how many batches.
        layers: those to measure, which normalise by batch meanwhile; None: all that do.

    Raises:
        NetError: its data comes from a Python or Input layer, which cannot be put back.
    """
    layers = following(net) if layers is None else layers
    with put_back(net, leading_to(net, layers)), by_batch(layers) as totals, torch.no_grad():
        for _ in range(iterations):
            net()
        changes = []
        for layer, total in zip(layers, totals, strict=True):
            mean, var = layer.kept()
            changes.append(Change(layer, (mean.clone(), var.clone()), total.average()))
    return changes


def score(
    net: Net, metrics: Sequence[Layer], iterations: int, layers: Sequence[BatchStatistics] = ()
) -> list[float]:
    """Return the mean of the first top of some layers, over batches of the net's data.

    The net is left as it was; see ``measure``.

    Args:
        net: the net.
        metrics: the layers whose tops are wanted, such as Accuracy.
        iterations: how many batches.
        layers: those that normalise by batch meanwhile.
    """
    sums = [0.0] * len(metrics)
    with put_back(net, leading_to(net, metrics)), by_batch(layers), torch.no_grad():
        for _ in range(iterations):
            net()
            for index, metric in enumerate(metrics):
                sums[index] += float(net.blobs[metric.proto.top[0]].mean())
    return [value / iterations for value in sums]


@contextmanager
def by_batch(layers: Sequence[BatchStatistics]) -> Iterator[list[Totals]]:
    """Let layers normalise by batch without updating statistics; yield the batches' totals."""
    stored = [layer.stored for layer in layers]
    totals = [Totals() for _ in layers]
    for layer, total in zip(layers, totals, strict=True):
        layer.stored, layer.totals = False, total
    try:
        yield totals
    finally:
        for layer, was in zip(layers, stored, strict=True):
            layer.stored, layer.totals = was, None


def refresh(net: Net, iterations: int) -> list[Change]:
    """Keep, in place of what was kept, averages over batches that are run with fixed weights.

    Each batch counts the same, whatever the layer's moving_average_fraction.

    Args:
        net: a net of phase TRAIN. Its weights, position in the data and random numbers stay.
        iterations: how many batches of its data.

    Returns:
        What was kept before and what is now, for each layer.

    Raises:
        NetError: no layer keeps statistics, or the data comes from a Python or Input layer.
    """
    if not following(net):
        raise NetError(
            f"net '{net.name}' has no layer in TRAIN that keeps statistics of its batches "
            "(BatchNorm without use_global_stats: true, or BN)",
            str(net.context.file) if net.context.file else None,
        )
    changes = measure(net, iterations)
    for change in changes:
        change.layer.keep(*change.now, iterations)
    return changes


def leading_to(net: Net, layers: Sequence[Layer]) -> list[LayerNode]:
    """Return the nodes that a forward pass needs up to the last of these layers.

    Raises:
        NetError: a Python or Input layer brings the data.
    """
    wanted: set[str] = set()
    nodes = []
    for node in reversed(net.nodes):
        if any(node.layer is layer for layer in layers) or not wanted.isdisjoint(node.tops):
            wanted.update(node.bottoms)
            nodes.append(node)
            if node.layer.type in _SET_BY_PROGRAM and not node.bottoms:
                node.layer.fail(
                    "the batches that are looked at must come from a data layer, such as Data, "
                    "which can be put back where it was"
                )
    return nodes[::-1]


@contextmanager
def put_back(net: Net, nodes: list[LayerNode]) -> Iterator[None]:
    """Run only some nodes of a net; afterwards everything is restored."""
    states = [
        (node.layer, {key: np.array(value) for key, value in node.layer.state().items()})
        for node in nodes
    ]
    last = [(x, x.last_batch) for x in following(net)]
    cuda = torch.cuda.is_available()
    random = torch.get_rng_state(), torch.cuda.get_rng_state() if cuda else None
    running, blobs, notify = net.running, dict(net.blobs), net.context.notify
    net.running, net.context.notify = nodes, lambda line: None
    try:
        yield
    finally:
        net.running, net.context.notify = running, notify
        net.blobs.clear()
        net.blobs.update(blobs)
        for norm, batch in last:
            norm.last_batch = batch
        for layer, state in states:
            if state:
                layer.restore(state)
        torch.set_rng_state(random[0])
        if random[1] is not None:
            torch.cuda.set_rng_state(random[1])
