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
from ..net import Net, Step

AUTO_LIMIT = 2 << 30  # bytes of memory that `auto` may take


@dataclass
class Frozen:
    """The part of a net that can be remembered.

    Attributes:
        source: the step of the data layer that feeds it.
        steps: the frozen steps in their order.
        blobs: the names of its blobs that the rest of the net takes.
    """

    source: Step
    steps: list[Step]
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
            f"{len(self.steps)} frozen layers: {', '.join(self.blobs)} of {self.records} records, "
            f"{self.bytes(net) / 2**20:.1f} MB"
        )


def find_frozen(net: Net, moving: Collection[str] = ()) -> Frozen | str:
    """Return the part of a net that can be remembered, or why there is none.

    Args:
        net: the train net, with its weights.
        moving: the names of frozen layers whose parameters change all the same.
    """
    sources = [s for s in net.steps if isinstance(s.layer, RecordLayer)]
    reason = "no layer with parameters is frozen"
    for source in sources:
        steps = _frozen_steps(net, source, moving)
        if not any(_has_weights(step) for step in steps):
            continue
        if not source.layer.deterministic:
            reason = (
                f"layer '{source.layer.name}' gives a record another face each time "
                "(mirror, jitter or random crop)"
            )
            continue
        blobs = _frontier(net, steps)
        if isinstance(blobs, str):
            reason = blobs
            continue
        return Frozen(source, steps, blobs)
    return reason


def _has_weights(step: Step) -> bool:
    return bool(step.layer.blobs or step.layer.digest)


def _frozen_steps(net: Net, source: Step, moving: Collection[str]) -> list[Step]:
    """Return the steps whose answers depend on the source's records alone."""
    remembered = set(source.tops)
    steps: list[Step] = []
    for step in net.steps[net.steps.index(source) + 1 :]:
        layer = step.layer
        frozen = (
            bool(step.bottoms)
            and remembered.issuperset(step.bottoms)
            and layer.per_sample
            and not any(step.loss_weights)
            and not layer.proto.HasField("loss_weight_schedule")
            and not any(blob.requires_grad for blob in layer.blobs)
            and layer.name not in moving
        )
        if frozen:
            steps.append(step)
            remembered.update(step.tops)
        else:
            remembered.difference_update(step.tops)  # changed in place by a layer that learns
    # What leads to no parameter is not worth remembering; the net runs it as ever.
    while steps and not _has_weights(steps[-1]) and _only_source(steps[-1], source):
        steps.pop()
    return steps


def _only_source(step: Step, source: Step) -> bool:
    return set(step.bottoms) <= set(source.tops)


def _frontier(net: Net, steps: Sequence[Step]) -> list[str] | str:
    """Return the frozen blobs that other steps or the net's outputs take."""
    version: dict[str, tuple[int, bool]] = {}  # of a name: who wrote it last, and whether frozen
    taken: dict[str, set[tuple[int, bool]]] = {}
    frozen = {id(step) for step in steps}
    for index, step in enumerate(net.steps):
        if id(step) not in frozen:
            for name in step.bottoms:
                taken.setdefault(name, set()).add(version[name])
        for name in step.tops:
            version[name] = (index, id(step) in frozen)
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
    return blobs or any(step.layer.digest for step in net.steps)
