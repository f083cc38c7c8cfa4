"""What a rule sees of a layer, and what it says of the layer's channels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ..core.errors import NetError
from ..layers import Layer, Shape
from ..net import LayerNode
from .channels import ChannelSets, Ids, Value

Size = Callable[[Ids], int]  # how many of some channels stay


class Kept(Exception):
    """Raised by a rule: the layer's bottoms keep all their channels.

    Args:
        why: the reason, as the end of a sentence for the user; empty if it is obvious.
    """

    def __init__(self, why: str = "") -> None:
        super().__init__(why)
        self.why = why


@dataclass
class Use:
    """An axis of a parameter blob that has a slice for each of some channels.

    Attributes:
        layer: the layer's name.
        blob: the blob's index.
        axis: the blob's axis.
        ids: the channels of its slices.
    """

    layer: str
    blob: int
    axis: int
    ids: Ids


@dataclass
class Edit:
    """Fields of a layer that depend on how many channels it has.

    Attributes:
        layer: the layer's name.
        pieces: channels of which each part needs at least one.
        apply: changes the LayerParameter.
    """

    layer: str
    pieces: list[Ids]
    apply: Callable[[Any, Size], None]


@dataclass
class Channels:
    """What is known of a net's channels.

    Attributes:
        sets: which can only be removed together.
        made: the channels that each layer with filters makes, by the layer's name.
        uses: the parameters' axes of channels, by layer, blob and axis.
        filters: those of them whose slices are the filters that make the channels.
        gains: those whose values are factors of the channels.
        edits: what changes in the prototxt, by layer and field.
        locks: channels that stay, each with a layer and the reason, empty where it is plain.
    """

    sets: ChannelSets = field(default_factory=ChannelSets)
    made: dict[str, Ids] = field(default_factory=dict)
    uses: dict[tuple[str, int, int], Use] = field(default_factory=dict)
    filters: dict[tuple[str, int, int], Use] = field(default_factory=dict)
    gains: dict[tuple[str, int, int], Use] = field(default_factory=dict)
    edits: dict[tuple[str, str], Edit] = field(default_factory=dict)
    locks: list[tuple[Ids, str]] = field(default_factory=list)


class Visit:
    """A layer on the walk; rules read its bottoms and say what its parameters belong to.

    Attributes:
        layer: the layer, built.
        shapes: the bottoms' shapes.
        top_shapes: the tops'.
        bottoms: where the bottoms have their channels; None: they have none that is known.
    """

    def __init__(self, channels: Channels, node: LayerNode, bottoms: list[Value | None]) -> None:
        self._channels = channels
        self.layer: Any = node.layer
        self.shapes: list[Shape] = node.bottom_shapes
        self.top_shapes: list[Shape] = node.top_shapes
        self.bottoms = bottoms

    @property
    def called(self) -> str:
        """The layer's name and type for a message."""
        return f"layer '{self.layer.name}' ({self.layer.type})"

    def bottom(self, index: int = 0, axis: int | None = None) -> Value:
        """Return where a bottom has its channels.

        Raises:
            Kept: it is not known, or not the axis that the layer works along.
        """
        value = self.bottoms[index]
        if value is None or axis not in (None, value.axis):
            raise Kept("it does not work along the axis of the channels that it reads")
        return value

    def united(self, indices: Iterable[int] | None = None, axis: int | None = None) -> Value:
        """Tie the channels of bottoms one by one, and return where they are.

        Raises:
            Kept: they lie along different axes.
        """
        chosen = range(len(self.bottoms)) if indices is None else indices
        first, *others = [self.bottom(i, axis) for i in chosen]
        if any(v.axis != first.axis or len(v.ids) != len(first.ids) for v in others):
            raise Kept("its bottoms have their channels along different axes")
        for other in others:
            self.tie(first.ids, other.ids)
        return first

    def tie(self, some: Ids, others: Ids) -> None:
        """Let channels stay or go together, one by one."""
        self._channels.sets.unite(some, others)

    def lock(self, value: Value | None, why: str = "") -> None:
        """Keep a value's channels, for a reason that may be plain."""
        if value is not None:
            reason = f"{self.called}: {why}" if why else ""
            self._channels.locks.append((value.ids, reason))

    def make(self, count: int) -> Ids:
        """Return the channels that the layer's filters make, the same ones in each phase."""
        made = self._channels.made
        name = self.layer.name
        if name not in made:
            made[name] = self._channels.sets.new(count)
        elif len(made[name]) != count:
            self.layer.fail(
                "it makes another number of channels in another phase",
                here=count,
                there=len(made[name]),
            )
        return made[name]

    def use(self, blob: int, axis: int, ids: Ids) -> None:
        """Let an axis of a parameter blob follow channels; a blob that is not there does not."""
        if blob < len(self.layer.blob_shapes):
            self._follow(self._channels.uses, blob, axis, ids)

    def filter(self, axis: int, ids: Ids) -> None:
        """Let blob 0 follow channels that its slices make, and be judged by these."""
        self.use(0, axis, ids)
        self._follow(self._channels.filters, 0, axis, ids)

    def gain(self, axis: int, ids: Ids) -> None:
        """Let blob 0 follow channels of which it holds the factors."""
        self.use(0, axis, ids)
        self._follow(self._channels.gains, 0, axis, ids)

    def _follow(
        self, uses: dict[tuple[str, int, int], Use], blob: int, axis: int, ids: Ids
    ) -> None:
        layer: Layer = self.layer
        if layer.blob_shapes[blob][axis] != len(ids):
            raise NetError(
                f"{self.called}: axis {axis} of its blob {blob} has {layer.blob_shapes[blob][axis]}"
                f" slices for {len(ids)} channels",
                layer.proto.source_line or None,
            )
        known = uses.setdefault((layer.name, blob, axis), Use(layer.name, blob, axis, ids))
        if len(known.ids) != len(ids):
            layer.fail("its parameters have another shape in another phase")
        self.tie(known.ids, ids)

    def edit(self, field_name: str, pieces: list[Ids], apply: Callable[[Any, Size], None]) -> None:
        """Let a field of the layer's settings follow how many channels stay.

        Args:
            field_name: the field.
            pieces: the channels it counts; of each piece one has to stay.
            apply: sets it in a message of the layer's own settings.
        """
        layer = self.layer
        block = layer.param_field

        def change(proto: Any, size: Size) -> None:
            apply(getattr(proto, block), size)

        self._channels.edits.setdefault((layer.name, field_name), Edit(layer.name, pieces, change))

    def count(self, field_name: str, ids: Ids) -> None:
        """Let a field of the layer's settings be the number of some channels, where it is given."""

        def apply(param: Any, size: Size) -> None:
            if param.HasField(field_name):
                setattr(param, field_name, size(ids))

        self.edit(field_name, [ids], apply)
