"""Finds the part of a net that gives a record the same answer each time.

A teacher, or a frozen trunk, that is fed by deterministic data can be run once for a record, and
its answer be remembered.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ..core.errors import UsageError
from ..layers import Shape
from ..layers.shared.records import RecordLayer
from ..net import LayerNode, Net

AUTO_LIMIT = 2 << 30  # bytes of memory that `auto` may take


@dataclass
class Frozen:
    """The part of a net that can be remembered.

    Attributes:
        source: the step of the data layer that feeds it.
        steps: the frozen steps in their order.
        blobs: the names of its blobs that the rest of the net takes.
    """

    source: LayerNode
    nodes: list[LayerNode]
    blobs: list[str]

    @property
    def records(self) -> int:
        """How many records there are."""
        assert isinstance(self.source.layer, RecordLayer)
        return self.source.layer.record_count

    def shapes(self, net: Net) -> dict[str, Shape]:
        """Return the shapes of what there is to remember, of all records, by blob."""
        return {name: (self.records, *net.shapes[name][1:]) for name in self.blobs}

    def bytes(self, net: Net) -> int:
        """Return what remembering takes."""
        return sum(4 * math.prod(shape) for shape in self.shapes(net).values())

    def told(self, net: Net) -> str:
        """Return what is remembered, in words."""
        return (
            f"{len(self.nodes)} frozen layers: {', '.join(self.blobs)} of {self.records} records, "
            f"{self.bytes(net) / 2**20:.1f} MB"
        )


def find_frozen(net: Net, moving: Collection[str] = ()) -> Frozen | str:
    """Return the part of a net that can be remembered, or why there is none.

    Args:
        net: the train net, with its weights.
        moving: the names of frozen layers whose parameters change all the same.
    """
    sources = [node for node in net.nodes if isinstance(node.layer, RecordLayer)]
    reason = "no layer with parameters is frozen"
    for source in sources:
        nodes = _frozen_steps(net, source, moving)
        if not any(_has_weights(node) for node in nodes):
            continue
        if not source.layer.deterministic:
            reason = (
                f"layer '{source.layer.name}' gives a record another face each time "
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


def _frozen_steps(net: Net, source: LayerNode, moving: Collection[str]) -> list[LayerNode]:
    """Return the steps whose answers depend on the source's records alone."""
    remembered = set(source.tops)
    nodes: list[LayerNode] = []
    for node in net.nodes[net.nodes.index(source) + 1 :]:
        layer = node.layer
        frozen = (
            bool(node.bottoms)
            and remembered.issuperset(node.bottoms)
            and layer.per_sample
            and not any(node.loss_weights)
            and not layer.proto.HasField("loss_weight_schedule")
            and not any(blob.requires_grad for blob in layer.blobs)
            and layer.name not in moving
        )
        if frozen:
            nodes.append(node)
            remembered.update(node.tops)
        else:
            remembered.difference_update(node.tops)  # changed in place by a layer that learns
    # What leads to no parameter is not worth remembering; the net runs it as ever.
    while nodes and not _has_weights(nodes[-1]) and _only_source(nodes[-1], source):
        nodes.pop()
    return nodes


def _only_source(node: LayerNode, source: LayerNode) -> bool:
    return set(node.bottoms) <= set(source.tops)


def _frontier(net: Net, nodes: Sequence[LayerNode]) -> list[str] | str:
    """Return the frozen blobs that other steps or the net's outputs take."""
    version: dict[str, tuple[int, bool]] = {}  # of a name: who wrote it last, and whether frozen
    taken: dict[str, set[tuple[int, bool]]] = {}
    frozen = {id(node) for node in nodes}
    for index, node in enumerate(net.nodes):
        if id(node) not in frozen:
            for name in node.bottoms:
                taken.setdefault(name, set()).add(version[name])
        for name in node.tops:
            version[name] = (index, id(node) in frozen)
    for name in net.outputs:
        taken.setdefault(name, set()).add(version[name])
    blobs = []
    for name, versions in taken.items():
        remembered = sorted(writer for writer, is_frozen in versions if is_frozen)
        if not remembered:
            continue
        # The look-up sets a blob at once, so nobody may want what was there under its name before.
        if len(remembered) > 1 or min(versions)[0] < remembered[0]:
            return f"blob '{name}' is changed in place between layers that take it"
        blobs.append(name)
    return blobs


def choose(net: Net, mode: str, batches: int, moving: Collection[str] = ()) -> Frozen | str:
    """Return the part of a net to remember, or why there is none; "" where nothing is frozen.

    Args:
        net: the train net.
        mode: auto (where it pays and fits), memory or disk.
        batches: how many batches the training is going to take.
        moving: as for ``find_frozen``.

    Raises:
        UsageError: ``memory`` or ``disk`` is asked for, but nothing can be remembered.
    """
    frozen = find_frozen(net, moving)
    if isinstance(frozen, str):
        if mode != "auto":
            raise UsageError(f"-teacher_cache {mode}: {frozen}")
        return frozen if _any_frozen(net) else ""
    if mode == "auto" and batches * frozen.source.top_shapes[0][0] <= frozen.records:
        return "the training sees each record once at most"
    size = frozen.bytes(net)
    if mode == "auto" and size > AUTO_LIMIT:
        return (
            f"it would take {size / 2**30:.1f} GB of memory; -teacher_cache disk keeps it on disk"
        )
    return frozen


def _any_frozen(net: Net) -> bool:
    blobs = any(not p.blob.requires_grad and p.layer.type != "BatchNorm" for p in net.params)
    return blobs or any(node.layer.digest for node in net.nodes)
