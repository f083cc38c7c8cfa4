"""Finds the part of a net whose outputs for a sample are the same each time.

A teacher or a frozen trunk on deterministic data needs to run only once per sample: its outputs
can be cached.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ..core.errors import UsageError
from ..layers import Shape
from ..layers.shared.sample_layer import SampleLayer
from ..net import LayerNode, Net

AUTO_LIMIT = 2 << 30  # bytes of memory that `auto` may take


@dataclass
class Frozen:
    """The part of a net whose outputs can be cached.

    Attributes:
        source: the node of the data layer that feeds it.
        nodes: the frozen layers' nodes, in the net's order.
        blobs: the names of its blobs that the rest of the net uses.
    """

    source: LayerNode
    nodes: list[LayerNode]
    blobs: list[str]

    @property
    def sample_count(self) -> int:
        """How many samples there are."""
        assert isinstance(self.source.layer, SampleLayer)
        return self.source.layer.sample_count

    def shapes(self, net: Net) -> dict[str, Shape]:
        """Return the shapes of the outputs for all samples, by blob."""
        return {name: (self.sample_count, *net.shapes[name][1:]) for name in self.blobs}

    def bytes(self, net: Net) -> int:
        """Return the size of the outputs for all samples."""
        return sum(4 * math.prod(shape) for shape in self.shapes(net).values())

    def describe(self, net: Net) -> str:
        """Return a description of what is cached, for the log."""
        return (
            f"the outputs of {len(self.nodes)} frozen layers: {', '.join(self.blobs)} for "
            f"{self.sample_count} samples, {self.bytes(net) / 2**20:.1f} MB"
        )


def find_frozen(net: Net, ema_layers: Collection[str] = ()) -> Frozen | str:
    """Return the part of a net whose outputs can be cached, or the reason why there is none.

    Args:
        net: the train net, with its weights.
        ema_layers: the names of layers whose parameters have no gradient but still change, being
            averages of the student's.
    """
    sources = [node for node in net.nodes if isinstance(node.layer, SampleLayer)]
    reason = "no layer with parameters is frozen"
    for source in sources:
        nodes = _frozen_nodes(net, source, ema_layers)
        if not any(_has_weights(node) for node in nodes):
            continue
        if not source.layer.deterministic:
            reason = (
                f"layer '{source.layer.name}' augments its samples at random "
                "(mirror, jitter or random crop)"
            )
            continue
        blobs = _frontier(net, nodes)
        if isinstance(blobs, str):
            reason = blobs
            continue
        return Frozen(source, nodes, blobs)
    return reason


def _has_weights(node: LayerNode) -> bool:
    return bool(node.layer.blobs or node.layer.digest)


def _frozen_nodes(net: Net, source: LayerNode, ema_layers: Collection[str]) -> list[LayerNode]:
    """Return the nodes whose outputs depend on the source's samples alone."""
    cacheable = set(source.tops)
    nodes: list[LayerNode] = []
    for node in net.nodes[net.nodes.index(source) + 1 :]:
        layer = node.layer
        frozen = (
            bool(node.bottoms)
            and cacheable.issuperset(node.bottoms)
            and layer.per_sample
            and not any(node.loss_weights)
            and not layer.proto.HasField("loss_weight_schedule")
            and not any(blob.requires_grad for blob in layer.blobs)
            and layer.name not in ema_layers
        )
        if frozen:
            nodes.append(node)
            cacheable.update(node.tops)
        else:
            cacheable.difference_update(node.tops)  # changed in place by a layer that learns
    # Layers without weights right after the data are not worth caching: the net runs them.
    while nodes and not _has_weights(nodes[-1]) and _only_source(nodes[-1], source):
        nodes.pop()
    return nodes


def _only_source(node: LayerNode, source: LayerNode) -> bool:
    return set(node.bottoms) <= set(source.tops)


def _frontier(net: Net, nodes: Sequence[LayerNode]) -> list[str] | str:
    """Return the frozen blobs that other nodes use or the net outputs."""
    version: dict[str, tuple[int, bool]] = {}  # the blob's last writer; is it frozen
    used: dict[str, set[tuple[int, bool]]] = {}
    frozen = {id(node) for node in nodes}
    for index, node in enumerate(net.nodes):
        if id(node) not in frozen:
            for name in node.bottoms:
                used.setdefault(name, set()).add(version[name])
        for name in node.tops:
            version[name] = (index, id(node) in frozen)
    for name in net.outputs:
        used.setdefault(name, set()).add(version[name])
    blobs = []
    for name, versions in used.items():
        frozen_writers = sorted(writer for writer, is_frozen in versions if is_frozen)
        if not frozen_writers:
            continue
        # The lookup sets a blob to its last value, so no layer may use an earlier one.
        if len(frozen_writers) > 1 or min(versions)[0] < frozen_writers[0]:
            return f"blob '{name}' is changed in place between layers that use it"
        blobs.append(name)
    return blobs


def select_frozen(
    net: Net, mode: str, batches: int, ema_layers: Collection[str] = ()
) -> Frozen | str:
    """Return the part of a net to cache, or the reason why none is; "" if nothing is frozen.

    Args:
        net: the train net.
        mode: auto (if it pays off and fits), memory or disk.
        batches: how many batches the training will use.
        ema_layers: as for ``find_frozen``.

    Raises:
        UsageError: ``memory`` or ``disk`` is asked for, but nothing can be cached.
    """
    frozen = find_frozen(net, ema_layers)
    if isinstance(frozen, str):
        if mode != "auto":
            raise UsageError(f"-teacher_cache {mode}: {frozen}")
        return frozen if _any_frozen(net) else ""
    if mode == "auto" and batches * frozen.source.top_shapes[0][0] <= frozen.sample_count:
        return "the training uses each sample once at most"
    size = frozen.bytes(net)
    if mode == "auto" and size > AUTO_LIMIT:
        return (
            f"it would take {size / 2**30:.1f} GB of memory; -teacher_cache disk stores it on disk"
        )
    return frozen


def _any_frozen(net: Net) -> bool:
    blobs = any(not p.blob.requires_grad and p.layer.type != "BatchNorm" for p in net.params)
    return blobs or any(node.layer.digest for node in net.nodes)
