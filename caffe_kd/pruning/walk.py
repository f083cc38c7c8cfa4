"""The walk over a net, in all its phases, that finds which channels can be removed together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.shape_inference import infer_shapes
from ..core.errors import NetError
from ..net import LayerNode, Net
from ..net.queries import called, is_source
from ..proto import caffe_pb2 as pb
from ..proto.filter import filter_net, is_included
from .channels import Value
from .options import NetState
from .rules import rule_of
from .visit import Channels, Kept, Visit

TEACHER = "teacher/"


def built_nets(param: Any, file: Path | None, state: NetState) -> Iterator[Net]:
    """Yield a net in each phase that it has data for, without values of its parameters.

    Raises:
        CaffeKDError: a layer cannot be built, or data is absent and its shape not known.
    """
    stages = [*param.state.stage, *state.stages]
    level = state.level or param.state.level
    filtered = {
        phase: filter_net(param, pb.NetState(phase=phase, level=level, stage=stages))
        for phase in (pb.TRAIN, pb.TEST)
    }
    fed = [phase for phase, net in filtered.items() if any(map(is_source, net.layer))]
    for phase in fed or filtered:
        found = infer_shapes(filtered[phase], phase, file, state.input_shapes, param)
        for _, error in found.problems:
            raise error
        for absent in found.absent:
            if absent.taken is None:
                raise NetError(
                    f"{absent.error.message}. Without its samples give their shape, as "
                    "-input_shape data=1,3,28,28",
                    absent.error.where,
                )
        assert found.net is not None
        yield found.net


def walk(param: Any, nets: Sequence[Net]) -> Channels:
    """Find the channels of a net, and which of them can only be removed together.

    Args:
        param: the NetParameter with the layers of all phases.
        nets: it in each of its phases, see ``built_nets``.
    """
    walker = _Walker(param)
    for net in nets:
        walker.walk(net)
    walker.lock_unseen(nets)
    return walker.channels


class _Walker:
    def __init__(self, param: Any) -> None:
        self.channels = Channels()
        self._param = param
        self._values: dict[str, list[Value]] = {}  # of all phases
        names = Counter(
            spec.name
            for name in {layer.name for layer in param.layer}
            for spec in next(x for x in param.layer if x.name == name).param
            if spec.name
        )
        self._shared = {name for name, count in names.items() if count > 1}

    def walk(self, net: Net) -> None:
        """Follow the channels through a net from its inputs to its outputs."""
        values: dict[str, Value | None] = {}
        aside = _distilling(net)
        times = Counter(node.layer.name for node in net.nodes)
        for node in net.nodes:
            bottoms = [values[name] for name in node.bottoms]
            visit = Visit(self.channels, node, bottoms)
            try:
                self._check(node, aside, times)
                tops = list(rule_of(node.layer.type)(visit)) if node.bottoms else []
            except Kept as kept:
                for value in bottoms:
                    visit.lock(value, kept.why)
                tops = []
            for index, (name, shape) in enumerate(zip(node.tops, node.top_shapes, strict=True)):
                value = tops[index] if tops else self._fixed(shape)
                values[name] = value
                if value is not None:
                    self._values.setdefault(name, []).append(value)
        for name in net.outputs:
            self._lock(values.get(name))

    def _check(self, node: LayerNode, aside: set[str], times: Counter[str]) -> None:
        layer = node.layer
        if layer.name.startswith(TEACHER) or layer.is_loss:
            raise Kept
        if layer.name in aside:
            raise Kept("it only compares with a teacher")
        if layer.blobs and times[layer.name] > 1:
            raise Kept("two layers have its name")
        if self._shared.intersection(spec.name for spec in layer.proto.param):
            raise Kept("it shares parameters with another layer")

    def _fixed(self, shape: tuple[int, ...]) -> Value | None:
        """Return the channels, which stay, of a blob of which nothing is known."""
        if len(shape) < 2:
            return None
        value = Value(1, self.channels.sets.new(shape[1]))
        self._lock(value)
        return value

    def _lock(self, value: Value | None, why: str = "") -> None:
        if value is not None:
            self.channels.locks.append((value.ids, why))

    def lock_unseen(self, nets: Sequence[Net]) -> None:
        """Keep what layers of other stages read, and Python layers that are not run."""
        names = [(net.param.state, {node.layer.name for node in net.nodes}) for net in nets]
        for layer in self._param.layer:
            if any(layer.name in built and is_included(layer, state) for state, built in names):
                continue
            for name in layer.bottom:
                for value in self._values.get(name, []):
                    self._lock(value, f"{called(layer)}: it is not built here")


def _distilling(net: Net) -> set[str]:
    """Return the layers with parameters that only serve comparisons with a teacher.

    Such is a distiller's regressor. The rest leads to a loss or output that sees no teacher.
    """
    of_teachers = {name for name in net.shapes if name.startswith(TEACHER)}
    if not of_teachers:
        return set()
    for node in net.nodes:
        if not of_teachers.isdisjoint(node.bottoms):
            of_teachers.update(node.tops)
    needed: set[str] = set()
    aside = set()
    taken = {name for node in net.nodes for name in node.bottoms}
    for node in reversed(net.nodes):
        tops = set(node.tops)
        leads = not needed.isdisjoint(tops) or (
            tops.isdisjoint(taken) and tops.isdisjoint(of_teachers)
        )
        if leads:
            needed.update(node.bottoms)
        elif node.layer.blobs:
            aside.add(node.layer.name)
    return aside


def removable(channels: Channels) -> dict[tuple[str, ...], np.ndarray]:
    """Return the sets of channels that can be removed, under the layers that make them."""
    roots = channels.sets.roots()
    locked = np.zeros(len(roots), bool)
    for ids, _ in channels.locks:
        locked[roots[ids]] = True
    makers: dict[int, list[str]] = {}
    for name, ids in channels.made.items():
        for root in dict.fromkeys(roots[ids].tolist()):
            makers.setdefault(root, []).append(name)
    spaces: dict[tuple[str, ...], list[int]] = {}
    for root, names in makers.items():
        if not locked[root]:
            spaces.setdefault(tuple(names), []).append(root)
    return {names: np.array(found) for names, found in spaces.items()}


def reasons(channels: Channels) -> list[str]:
    """Return a sentence for each layer that keeps channels that might else be removed."""
    roots = channels.sets.roots()
    plain = {int(r) for ids, why in channels.locks if not why for r in roots[ids]}
    lines = {}
    for ids, why in channels.locks:
        held = set(roots[ids].tolist()) - plain
        makers = [n for n, made in channels.made.items() if held.intersection(roots[made].tolist())]
        if why and makers:
            what = ", ".join(f"'{name}'" for name in makers)
            lines[why] = f"{why}. The channels of {what} are kept"
    return list(lines.values())
