"""Where in a net the values that quantised layers read come from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..layers.shared.quantized_layer import LayerRounding, ValueRounding, rounding_of
from ..proto import caffe_pb2 as pb
from .net import LayerNode, Net

# Types that pass values on, changed in place or number but not in size. Dropout's factor makes no
# difference where the value is rounded before it.
_PASSING = ("Dropout", "Flatten", "Reshape", "Split")


@dataclass
class Way:
    """How a value comes to a layer that reads it quantised.

    Attributes:
        source: the layer that writes it, and which of its tops it is.
        steps: the bottoms that it goes through, each a node and the bottom's index: the first reads
            what the source writes, the last is the reader's own.
    """

    source: tuple[str, int]
    steps: list[tuple[LayerNode, int]]


def ways(net: Net, names: Collection[str]) -> dict[str, Way]:
    """Return, for each layer of these names, the way from where its first bottom is written.

    It leads back through Flatten, Reshape, Dropout, Split and MAX pooling, to which it makes no
    difference whether values are rounded before or behind them: so it begins behind a ReLU.
    """
    written: dict[str, tuple[LayerNode, int]] = {}  # blob → its last writer so far
    inputs: dict[int, list[tuple[LayerNode, int]]] = {}  # node → what wrote its bottoms
    found: dict[str, Way] = {}
    for node in net.nodes:
        inputs[id(node)] = [written[name] for name in node.bottoms]
        if node.layer.name in names:
            steps = [(node, 0)]
            writer, top = inputs[id(node)][0]
            while _passes(writer):
                steps.insert(0, (writer, 0))
                writer, top = inputs[id(writer)][0]
            found[node.layer.name] = Way((writer.layer.name, top), steps)
        written.update((name, (node, index)) for index, name in enumerate(node.tops))
    return found


def _passes(node: LayerNode) -> bool:
    layer = node.layer
    if layer.type == "Pooling":
        return bool(layer.param.pool == pb.PoolingParameter.MAX) and len(node.tops) == 1
    return layer.type in _PASSING


@dataclass
class Rounded:
    """A layer that rounds, and the bottoms on the way to it that are rounded alike."""

    rounding: LayerRounding
    bottoms: list[tuple[LayerNode, int]]


def rounded_layers(net: Net) -> list[Rounded]:
    """Return a net's layers that round, each with its way.

    Where a way is shared with a layer that rounds to other levels only the layer's own bottom is
    left of it.
    """
    roundings = {n.layer.name: r for n in net.nodes if (r := rounding_of(n.layer)) is not None}
    found = ways(net, roundings)
    grids: dict[tuple[int, int], set[tuple[float, ...]]] = {}
    for name, rounding in roundings.items():
        for step in found[name].steps:
            grids.setdefault(_key(step), set()).add(_grid(rounding.value))
    return [
        Rounded(rounding, steps if all(len(grids[_key(s)]) == 1 for s in steps) else steps[-1:])
        for name, rounding in roundings.items()
        for steps in [found[name].steps]
    ]


def round_at_source(net: Net) -> None:
    """Let values be rounded where they are written, not by the layer that reads them.

    It makes no difference to the results; the blobs between the two become those of a net that
    computes with integers there.
    """
    hooked = set()
    for layer in rounded_layers(net):
        layer.rounding.reads = False
        first = layer.bottoms[0]
        if layer.rounding.value is not None and _key(first) not in hooked:
            hooked.add(_key(first))
            first[0].layer.register_forward_pre_hook(_Rounds(layer.rounding.value, first[1]))


class _Rounds:
    """A hook that rounds a bottom of a layer."""

    def __init__(self, value: ValueRounding, bottom: int) -> None:
        self.value = value
        self.bottom = bottom

    def __call__(self, _layer: Any, bottoms: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        rounded = self.value(bottoms[self.bottom])
        return (*bottoms[: self.bottom], rounded, *bottoms[self.bottom + 1 :])


def _key(step: tuple[LayerNode, int]) -> tuple[int, int]:
    return id(step[0]), step[1]


def _grid(value: ValueRounding | None) -> tuple[float, ...]:
    return () if value is None else (value.bits, float(value.step), float(value.zero))
