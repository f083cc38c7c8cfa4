"""The nodes of a net's graph, splits included, and which of them a backward pass visits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..layers import Layer, Shape
from ..net import LayerNode
from ..net import Net as CoreNet
from ..proto import schedule
from ..proto.insert_splits import insert_splits

# Layers whose tops are the bottom under other names or shapes: they share memory.
_VIEWS = ("Split", "Reshape", "Flatten")


@dataclass
class Tape:
    """What a layer computed last, with the autograd graph to its bottoms and parameters."""

    bottoms: list[Tensor]
    tops: list[Tensor]
    parameters: list[tuple[nn.Parameter, int]]  # each with its version at that time

    def is_of(self, layer: Layer, bottoms: list[Shape]) -> bool:
        """Whether parameters and shapes of bottoms are still those of the graph."""
        now = layer.parameters_in_order
        return [tuple(b.shape) for b in self.bottoms] == bottoms and all(
            p is q and version == q._version
            for p, (q, version) in zip(now, self.parameters, strict=True)
        )


@dataclass
class Node:
    """A layer in the net with splits; blobs are indices into the graph's list.

    Attributes:
        loss_weights: as given; see ``weights_in`` for what they are in an iteration.
        schedule: what they are multiplied by, if anything.
    """

    name: str
    type: str
    layer: Layer | None  # None: a Split that was inserted
    bottoms: list[int]
    tops: list[int]
    loss_weights: list[float]
    detached: list[bool]
    schedule: Any = None
    given: bool = False  # whether propagate_down says which bottoms are detached
    params: list[int] = field(default_factory=list)  # the owner of each parameter blob
    needs: list[bool] = field(default_factory=list)  # which bottoms get a gradient
    needs_backward: bool = False
    tape: Tape | None = None

    def weights_in(self, iteration: int) -> list[float]:
        """Return the loss weights of the tops in an iteration of the solver."""
        if self.schedule is None:
            return self.loss_weights
        factor = schedule.value_at(self.schedule, iteration)
        return [factor * weight for weight in self.loss_weights]

    @property
    def is_view(self) -> bool:
        """Whether the tops share the bottom's values."""
        return self.type in _VIEWS

    @property
    def shares_diff(self) -> bool:
        """Whether bottom and top share their gradient too."""
        return self.is_view and self.type != "Split"


class NodeList:
    """A net's layers in order, with splits.

    Attributes:
        nodes: the layers in their order.
        names: the name of each blob.
        param: the NetParameter with the splits.
    """

    def __init__(self, net: CoreNet) -> None:
        self.param = insert_splits(net.param)
        self.nodes: list[Node] = []
        self.names: list[str] = []
        self._latest: dict[str, int] = {}
        self._net = net
        remaining = iter(net.nodes)
        core = next(remaining, None)
        for proto in self.param.layer:
            if core is not None and core.layer.name == proto.name:
                self._add(proto, core)
                core = next(remaining, None)
            else:
                self._add_split(proto)
        owners = {id(p.blob): i for i, p in enumerate(net.params)}
        for node in self.nodes:
            blobs = node.layer.parameters_in_order if node.layer else []
            node.params = [owners[id(blob)] for blob in blobs]
        _mark_backward(self.nodes, self.names, net)

    def _add(self, proto: Any, node: LayerNode) -> None:
        bottoms = [self._latest[name] for name in proto.bottom if name]
        tops = [self._top(name, i, bottoms) for i, name in enumerate(node.tops)]
        own = node.layer.proto
        self.nodes.append(
            Node(
                node.layer.name,
                node.layer.type,
                node.layer,
                bottoms,
                tops,
                CoreNet.loss_weights_of(node.layer, node.tops),
                node.detached,
                own.loss_weight_schedule if own.HasField("loss_weight_schedule") else None,
                given=bool(own.propagate_down),
            )
        )

    def _add_split(self, proto: Any) -> None:
        """Add an inserted Split; it takes over the loss weight of the top that it splits.

        Caffe also clears the weights of the layer's other tops, and a loss layer whose list is
        cleared counts once more with weight 1; a solver's loop has no splits and does neither.
        """
        (bottom,) = [self._latest[name] for name in proto.bottom]
        tops = [self._top(name, i, [bottom]) for i, name in enumerate(proto.top)]
        weights = list(proto.loss_weight) or [0.0] * len(tops)
        maker = next(p for p in reversed(self.nodes) if bottom in p.tops)
        if proto.loss_weight:
            maker.loss_weights[maker.tops.index(bottom)] = 0.0
        self.nodes.append(
            Node(proto.name, "Split", None, [bottom], tops, weights, [False], maker.schedule)
        )

    def _top(self, name: str, index: int, bottoms: Sequence[int]) -> int:
        if index < len(bottoms) and self.names[bottoms[index]] == name:
            return bottoms[index]  # in place
        self.names.append(name)
        self._latest[name] = len(self.names) - 1
        return self._latest[name]


def _mark_backward(nodes: Sequence[Node], names: Sequence[str], net: CoreNet) -> None:
    """Mark which layers a backward pass visits, and which bottoms get a gradient there.

    A gradient is computed on each path from a loss to a trainable blob; with ``force_backward``
    everywhere except at labels.

    Source: Caffe's Net::Init.
    """
    blob_needs = [False] * len(names)
    for node in nodes:
        pairs = list(zip(node.bottoms, node.detached, strict=True))
        node.needs = [(node.given or blob_needs[b]) and not detached for b, detached in pairs]
        learns = any(net.params[i].blob.requires_grad for i in node.params)
        node.needs_backward = learns or any(blob_needs[b] for b in node.bottoms)
        if node.needs_backward:
            for top in node.tops:
                blob_needs[top] = True
    under_loss: set[str] = set()
    skipped: set[str] = set()
    for node in reversed(nodes):
        tops = [names[t] for t in node.tops]
        contributes = any(node.loss_weights) or not under_loss.isdisjoint(tops)
        if all(top in skipped for top in tops):
            node.needs_backward = False
            node.needs = [False] * len(node.needs)
        if not contributes:
            node.needs_backward = False
            node.needs = [False] * len(node.needs)
        bottoms = [names[b] for b in node.bottoms]
        if contributes:
            under_loss.update(bottoms)
        skipped.update(b for b, needed in zip(bottoms, node.needs, strict=True) if not needed)
    if net.param.force_backward:
        for node in nodes:
            node.needs_backward = True
            constant = node.layer.constant_bottoms if node.layer else ()
            node.needs = [n or i not in constant for i, n in enumerate(node.needs)]
