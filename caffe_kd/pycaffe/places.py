"""The layers of a net with its splits, and which of them a backward pass visits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..layers import Layer, Shape
from ..net import Net as CoreNet
from ..net import Step
from ..proto import schedule
from ..proto.insert_splits import insert_splits

# Layers whose tops are the bottom under other names or shapes: values lie in one memory.
_VIEWS = ("Split", "Reshape", "Flatten")


@dataclass
class Record:
    """What a layer computed last, with the graph that leads back to its bottoms and parameters."""

    bottoms: list[Tensor]
    tops: list[Tensor]
    parameters: list[tuple[nn.Parameter, int]]  # each with its version then

    def is_of(self, layer: Layer, bottoms: list[Shape]) -> bool:
        """Whether parameters and shapes of bottoms are still those the graph remembers."""
        now = layer.parameters_in_order
        return [tuple(b.shape) for b in self.bottoms] == bottoms and all(
            p is q and version == q._version
            for p, (q, version) in zip(now, self.parameters, strict=True)
        )


@dataclass
class Place:
    """A layer in the net with splits; blobs are numbers into the graph's list.

    Attributes:
        loss_weights: as given; see ``weights_in`` for what they are in an iteration.
        schedule: what they are multiplied with, if anything.
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
    record: Record | None = None

    def weights_in(self, iteration: int) -> list[float]:
        """Return the loss weights of the tops in an iteration of the solver's."""
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


class Places:
    """Lays out a net's layers with splits.

    Attributes:
        places: the layers in their order.
        names: the name of each blob.
        param: the NetParameter with the splits.
    """

    def __init__(self, net: CoreNet) -> None:
        self.param = insert_splits(net.param)
        self.places: list[Place] = []
        self.names: list[str] = []
        self._latest: dict[str, int] = {}
        self._net = net
        steps = iter(net.steps)
        step = next(steps, None)
        for proto in self.param.layer:
            if step is not None and step.layer.name == proto.name:
                self._add(proto, step)
                step = next(steps, None)
            else:
                self._add_split(proto)
        owners = {id(p.blob): i for i, p in enumerate(net.params)}
        for place in self.places:
            blobs = place.layer.parameters_in_order if place.layer else []
            place.params = [owners[id(blob)] for blob in blobs]
        _mark_backward(self.places, self.names, net)

    def _add(self, proto: Any, step: Step) -> None:
        bottoms = [self._latest[name] for name in proto.bottom if name]
        tops = [self._top(name, i, bottoms) for i, name in enumerate(step.tops)]
        own = step.layer.proto
        self.places.append(
            Place(
                step.layer.name,
                step.layer.type,
                step.layer,
                bottoms,
                tops,
                CoreNet.loss_weights_of(step.layer, step.tops),
                step.detached,
                own.loss_weight_schedule if own.HasField("loss_weight_schedule") else None,
                given=bool(own.propagate_down),
            )
        )

    def _add_split(self, proto: Any) -> None:
        """Add an inserted Split; it takes over the loss weight of the top behind which it stands.

        The original also clears the weights of the layer's other tops, and a loss layer whose list
        is cleared counts once more with weight 1; a solver's loop knows no splits and does neither.
        """
        (bottom,) = [self._latest[name] for name in proto.bottom]
        tops = [self._top(name, i, [bottom]) for i, name in enumerate(proto.top)]
        weights = list(proto.loss_weight) or [0.0] * len(tops)
        maker = next(p for p in reversed(self.places) if bottom in p.tops)
        if proto.loss_weight:
            maker.loss_weights[maker.tops.index(bottom)] = 0.0
        self.places.append(
            Place(proto.name, "Split", None, [bottom], tops, weights, [False], maker.schedule)
        )

    def _top(self, name: str, index: int, bottoms: Sequence[int]) -> int:
        if index < len(bottoms) and self.names[bottoms[index]] == name:
            return bottoms[index]  # in place
        self.names.append(name)
        self._latest[name] = len(self.names) - 1
        return self._latest[name]


def _mark_backward(places: Sequence[Place], names: Sequence[str], net: CoreNet) -> None:
    """Decide which layers a backward pass visits, and which bottoms get a gradient there.

    A gradient is computed where it leads from a loss to a blob that learns; with
    ``force_backward`` everywhere but at labels.

    Source: Caffe's Net::Init.
    """
    blob_needs = [False] * len(names)
    for place in places:
        pairs = list(zip(place.bottoms, place.detached, strict=True))
        place.needs = [(place.given or blob_needs[b]) and not detached for b, detached in pairs]
        learns = any(net.params[i].blob.requires_grad for i in place.params)
        place.needs_backward = learns or any(blob_needs[b] for b in place.bottoms)
        if place.needs_backward:
            for top in place.tops:
                blob_needs[top] = True
    under_loss: set[str] = set()
    skipped: set[str] = set()
    for place in reversed(places):
        tops = [names[t] for t in place.tops]
        contributes = any(place.loss_weights) or not under_loss.isdisjoint(tops)
        if all(top in skipped for top in tops):
            place.needs_backward = False
            place.needs = [False] * len(place.needs)
        if not contributes:
            place.needs_backward = False
            place.needs = [False] * len(place.needs)
        bottoms = [names[b] for b in place.bottoms]
        if contributes:
            under_loss.update(bottoms)
        skipped.update(b for b, needed in zip(bottoms, place.needs, strict=True) if not needed)
    if net.param.force_backward:
        for place in places:
            place.needs_backward = True
            constant = place.layer.constant_bottoms if place.layer else ()
            place.needs = [n or i not in constant for i, n in enumerate(place.needs)]
