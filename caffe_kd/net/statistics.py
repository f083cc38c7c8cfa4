"""Batch normalisation's running statistics: measuring how far off they are, and refreshing them.

In TRAIN a BatchNorm uses its batch's statistics, in TEST running averages over about
1 / (1 - moving_average_fraction) batches, during which the weights change. In a short training, or
after a steep drop of the learning rate, the averages belong to earlier weights, and a good net
tests badly.
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

LAGGING = 0.2  # from this ``Change.lag`` on a test with running statistics can be far too low
_SET_BY_PROGRAM = ("Python", "Input")  # types whose data a program sets


@dataclass
class Change:
    """A layer's running statistics, and those of batches with the current weights.

    Attributes:
        layer: the layer.
        running: the running mean and variance of each channel.
        now: their averages over batches that were run with fixed weights.
    """

    layer: BatchStatistics
    running: tuple[Tensor, Tensor]
    now: tuple[Tensor, Tensor]

    @property
    def shift(self) -> float:
        """The median over the channels of the mean's error, in standard deviations."""
        (running, _), (mean, var) = self.running, self.now
        return float(((running - mean).abs() / (var + self.layer.eps).sqrt()).median())

    @property
    def ratio(self) -> float:
        """The median over the channels of the running variance, divided by that of now."""
        eps = self.layer.eps
        return float(((self.running[1] + eps) / (self.now[1] + eps)).median())

    @property
    def lag(self) -> float:
        """How far off it is: the mean in deviations, or the variance by its ratio less 1."""
        ratio = self.ratio
        return max(self.shift, abs(ratio - 1), 1 / ratio - 1 if ratio > 0 else 0.0)

    def __str__(self) -> str:
        """Return the change in words."""
        return (
            f"layer '{self.layer.name}' ({self.layer.type}): the running variance was "
            f"{self.ratio:.3g} times that of now, the mean off by {self.shift:.3g} standard "
            "deviations (medians over the channels)"
        )


def layers_with_running_stats(net: Net) -> list[BatchStatistics]:
    """Return the layers that use batch statistics and update running ones for TEST."""
    layers = [node.layer for node in net.nodes]
    return [x for x in layers if isinstance(x, BatchStatistics) and x.updates_running_stats]


def measure(
    net: Net, iterations: int, layers: Sequence[BatchStatistics] | None = None
) -> list[Change]:
    """Run batches of a net's data with fixed weights; return its layers' statistics in them.

    The net is restored: running statistics, blobs, position in the data, random numbers.

    Args:
        net: the net.
        iterations: how many batches.
        layers: those to measure, which use batch statistics meanwhile; None: all that do.

    Raises:
        NetError: its data comes from a Python or Input layer, which cannot be restored.
    """
    layers = layers_with_running_stats(net) if layers is None else layers
    with put_back(net, leading_to(net, layers)), by_batch(layers) as totals, torch.no_grad():
        for _ in range(iterations):
            net()
        changes = []
        for layer, total in zip(layers, totals, strict=True):
            mean, var = layer.running_stats()
            changes.append(Change(layer, (mean.clone(), var.clone()), total.average()))
    return changes


def score(
    net: Net, metrics: Sequence[Layer], iterations: int, layers: Sequence[BatchStatistics] = ()
) -> list[float]:
    """Return the mean of the first top of some layers, over batches of the net's data.

    The net is restored; see ``measure``.

    Args:
        net: the net.
        metrics: the layers whose tops are returned, such as Accuracy.
        iterations: how many batches.
        layers: those that use batch statistics meanwhile.
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
    """Make layers use batch statistics without updating running ones; yield the totals."""
    before = [layer.use_global_stats for layer in layers]
    totals = [Totals() for _ in layers]
    for layer, total in zip(layers, totals, strict=True):
        layer.use_global_stats, layer.totals = False, total
    try:
        yield totals
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer.use_global_stats, layer.totals = was, None


def refresh(net: Net, iterations: int) -> list[Change]:
    """Replace running statistics by averages over batches that are run with fixed weights.

    Each batch counts the same, whatever the layer's moving_average_fraction.

    Args:
        net: a net of phase TRAIN. Its weights, position in the data and random numbers are not
            changed.
        iterations: how many batches of its data.

    Returns:
        The statistics before and after, for each layer.

    Raises:
        NetError: no layer has running statistics, or the data comes from a Python or Input layer.
    """
    if not layers_with_running_stats(net):
        raise NetError(
            f"net '{net.name}' has no layer in TRAIN with running statistics "
            "(BatchNorm without use_global_stats: true, or BN)",
            str(net.context.file) if net.context.file else None,
        )
    changes = measure(net, iterations)
    for change in changes:
        change.layer.set_running_stats(*change.now, iterations)
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
                    "the batches must come from a data layer, such as Data, whose position can "
                    "be restored"
                )
    return nodes[::-1]


@contextmanager
def put_back(net: Net, nodes: list[LayerNode]) -> Iterator[None]:
    """Run only some nodes of a net, and restore everything afterwards."""
    states = [
        (node.layer, {key: np.array(value) for key, value in node.layer.state().items()})
        for node in nodes
    ]
    last = [(x, x.last_batch) for x in layers_with_running_stats(net)]
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
