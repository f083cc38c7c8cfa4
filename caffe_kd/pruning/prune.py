"""Structured pruning: whole channels go, and the net is an ordinary net, only smaller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import CaffeKDError, NetError
from ..proto.binary import LayerWeights
from .batches import refreshed, taylor
from .candidates import candidates, check_filled, fitted_weights
from .costs import LayerCost, Row, Table, costs_of, total
from .criteria import scores_of
from .cut import Weights, cut_net, cut_weights
from .options import NetState, PruneOptions
from .selection import Limits, Scores, Selection
from .speed import Latency, latency_of
from .visit import Channels
from .walk import built_nets, reasons, walk

Mask = NDArray[np.bool_]  # whether a channel is removed, by its number

_STEPS = {"latency": 7}  # of a bisection; a measured figure has no more digits
_MOST_STEPS = 24


@dataclass
class Pruned:
    """A net with fewer channels.

    Attributes:
        net: its NetParameter, with the layers of all phases.
        weights: its parameters by layer.
        table: what it costs, before and after.
        notes: what the user should know, a sentence each.
        whole: how many channels the layers had that can be removed together.
        channels: what the walk found of them.
        removed: which went, by their numbers.
    """

    net: Any
    weights: Weights
    table: Table
    notes: list[str]
    whole: dict[tuple[str, ...], int]
    channels: Channels
    removed: Mask


def prune(
    net: Any,
    weights: Sequence[LayerWeights],
    options: PruneOptions | None = None,
    file: str | Path | None = None,
    source: str = "the weights",
) -> Pruned:
    """Return a net without its least channels.

    Args:
        net: the NetParameter in the current format, with the layers of all phases.
        weights: its weights.
        options: how much is removed, and by what criterion.
        file: where the net was read, for relative paths and messages.
        source: where the weights were read, for messages.

    Raises:
        UsageError: an option is out of range, or names a layer that is not there.
        WeightsError: the weights do not fit the net.
        NetError: the net cannot be built, nothing can be removed, or a target is out of reach.
    """
    options = options or PruneOptions()
    options.check()
    return _Pruner(net, weights, options, Path(file) if file else None, source).run()


def figure_of(target: str, net: Any, weights: Weights, file: Path | None, state: NetState) -> float:
    """Return what a net has of a target: its multiply-adds, parameters or microseconds.

    Raises:
        CaffeKDError: it cannot be built, or its time not be measured.
    """
    if target == "latency":
        return latency_of(net, weights, file, state).total
    return float(getattr(total(_costs(net, file, state)), target))


def compare(before: Any, after: Any, file: Path | None, state: NetState) -> list[Row]:
    """Return the rows of a table of two nets, of which the second is the first one pruned.

    Raises:
        CaffeKDError: one cannot be built.
    """
    nets = [list(built_nets(net, file, state)) for net in (before, after)]
    old, new = (costs_of(built[-1]) for built in nets)
    made = [walk(net, built).made for net, built in zip((before, after), nets, strict=True)]
    return [
        Row(
            name,
            (len(made[1][name]), len(made[0][name])) if name in made[0] else None,
            old[name],
            new[name],
        )
        for name in old
    ]


def _costs(net: Any, file: Path | None, state: NetState) -> dict[str, LayerCost]:
    return costs_of(list(built_nets(net, file, state))[-1])  # in TEST, if it has data there


class _Pruner:
    def __init__(
        self,
        param: Any,
        weights: Sequence[LayerWeights],
        options: PruneOptions,
        file: Path | None,
        source: str,
    ) -> None:
        self._param = param
        self._options = options
        self._file = file
        nets = list(built_nets(param, file, options.state))
        self._weights = fitted_weights(nets, weights, source)
        self._channels = walk(param, nets)
        self._notes = reasons(self._channels)
        try:
            self._spaces = candidates(self._channels, options, self._notes)
        except NetError as error:
            raise self._error(error.message) from None
        check_filled(self._channels, self._spaces, self._weights, source)

    def run(self) -> Pruned:
        """Choose the channels and remove them."""
        options = self._options
        limits = Limits(
            scope=options.scope,
            floor=options.least_kept,
            multiple=options.multiple,
            shares=options.layer_ratios,
            whole=options.whole,
        )
        selection = Selection(self._channels, self._spaces, self._scores(), limits)
        removed = self._removed(selection)
        if options.must_remove and not options.is_idle and not removed.any():
            raise self._error(
                "nothing is removed: each layer has as few channels as it may keep already, or the "
                "ratio is less than one channel of any"
            )
        net = cut_net(self._param, self._channels, removed)
        weights = cut_weights(self._weights, self._channels, removed)
        if removed.any() and options.iterations:
            weights, notes = refreshed(net, weights, self._file, options.state, options.iterations)
            self._notes += notes
        rows = compare(self._param, net, self._file, options.state)
        return Pruned(
            net=net,
            weights=weights,
            table=Table(rows, self._latency(net, weights)),
            notes=self._notes,
            whole={names: len(ids) for names, ids in self._spaces.items()},
            channels=self._channels,
            removed=removed,
        )

    def _scores(self) -> Scores:
        options, values = self._options, self._weights
        if options.criterion == "TAYLOR":
            layers = {use.layer for use in self._channels.filters.values()}
            file, state = self._file, options.state
            values = taylor(self._param, values, layers, file, state, options.iterations)
        return scores_of(options.criterion, self._channels, self._spaces, values, options.seed)

    # ---- how much

    def _removed(self, selection: Selection) -> Mask:
        options = self._options
        if options.target == "ratio":
            return selection.removed(options.amount)
        none = selection.removed(0.0)
        now = self._figure(none)
        goal = options.amount * now if options.amount < 1 else options.amount
        if now <= goal and not options.must_remove:
            return none
        if now <= goal:
            raise self._error(f"-{options.target} {options.amount:g}: the net has {now:,.0f} now")
        least = self._figure(selection.removed(selection.highest))
        if least > goal:
            raise self._error(
                f"-{options.target} {options.amount:g} cannot be reached: with the fewest channels "
                f"that each layer may have it is {least:,.0f}, of {now:,.0f} now"
            )
        low, high = 0.0, selection.highest
        for _ in range(_STEPS.get(options.target, _MOST_STEPS)):
            middle = (low + high) / 2
            if self._figure(selection.removed(middle)) > goal:
                low = middle
            else:
                high = middle
        removed = selection.removed(high)
        if options.target == "latency":
            return removed
        return self._given_back(removed, selection.removed(low), goal)

    def _given_back(self, removed: Mask, fewer: Mask, goal: float) -> Mask:
        """Return fewer removed channels that still meet a goal, as layers of like ratio step."""
        roots = self._channels.sets.roots()
        for ids in self._spaces.values():
            trial = np.where(np.isin(roots, ids), fewer, removed)
            if self._figure(trial) <= goal:
                removed = trial
        return removed

    def _figure(self, removed: Mask) -> float:
        """Return what is left of the target."""
        net = cut_net(self._param, self._channels, removed)
        weights = cut_weights(self._weights, self._channels, removed)
        return figure_of(self._options.target, net, weights, self._file, self._options.state)

    def _latency(self, net: Any, weights: Weights) -> tuple[Latency, Latency] | None:
        """Return what the net takes before and after, if it is wanted and can be exported."""
        if not self._options.measures:
            return None
        pairs = ((self._param, self._weights), (net, weights))
        try:
            file, state = self._file, self._options.state
            before, after = (latency_of(*p, file, state, by_layer=True) for p in pairs)
        except CaffeKDError as error:
            self._notes.append(f"no time was measured: {error}")
            return None
        return before, after

    def _error(self, fact: str) -> CaffeKDError:
        return NetError(fact, str(self._file) if self._file else f"net '{self._param.name}'")
