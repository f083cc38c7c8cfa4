"""Which channels go: by each layer's share or by one ranking of all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UsageError
from .channels import Ids
from .visit import Channels

Scores = NDArray[np.float64]  # by the number of a set of channels
Spaces = Mapping[tuple[str, ...], Ids]  # sets of channels, under the layers that make them

_ROUNDING = 1e-9  # 0.7 * 10 is 7, whatever binary fractions make of it


@dataclass(frozen=True)
class Limits:
    """What bounds the choice of channels.

    Attributes:
        scope: LAYER: the same share of each layer; GLOBAL: the least of one ranking of all.
        floor: the least share of its channels that a layer keeps; one channel stays always.
        multiple: each layer keeps a multiple of so many channels, if it loses any.
        shares: the share to remove of some layers, by name, whatever the ratio is.
        whole: how many channels a layer had once, of which its shares are; none given: has now.
    """

    scope: str = "LAYER"
    floor: float = 0.0
    multiple: int = 1
    shares: Mapping[str, float] = field(default_factory=dict)
    whole: Mapping[tuple[str, ...], int] = field(default_factory=dict)


class Selection:
    """Chooses channels to remove, the more the higher the ratio.

    Args:
        channels: the net's channels.
        spaces: those that can be removed.
        scores: what each set of channels is worth.
        limits: what bounds the choice.

    Raises:
        UsageError: layers whose channels are tied have different shares.
    """

    def __init__(self, channels: Channels, spaces: Spaces, scores: Scores, limits: Limits) -> None:
        self._roots = channels.sets.roots()
        self._scores = scores
        self._limits = limits
        self._ranked = {k: ids[np.argsort(scores[ids], kind="stable")] for k, ids in spaces.items()}
        self._shares = {names: self._share_of(names) for names in spaces}
        pieces = [use.ids for use in channels.uses.values()]
        pieces += [piece for edit in channels.edits.values() for piece in edit.pieces]
        self._pieces = [np.unique(self._roots[piece]) for piece in pieces]

    @property
    def highest(self) -> float:
        """The highest ratio there is."""
        return 1.0 - self._limits.floor

    def removed(self, ratio: float) -> NDArray[np.bool_]:
        """Return which channels go at a ratio, by their numbers."""
        gone = np.zeros(len(self._roots), bool)
        for ids in self._chosen(ratio):
            gone[ids] = True
        for ranked in self._ranked.values():
            going = ranked[gone[ranked]]
            surplus = (len(ranked) - len(going)) % self._limits.multiple
            if surplus:
                gone[going[-(self._limits.multiple - surplus) :]] = False
        for piece in self._pieces:  # a part of a Slice needs a channel too
            if len(piece) and gone[piece].all():
                gone[piece[np.argmax(self._scores[piece])]] = False
        return gone[self._roots]

    def _chosen(self, ratio: float) -> Iterable[Ids]:
        free = {}
        for names, ranked in self._ranked.items():
            share = self._shares[names]
            if share is not None:
                yield ranked[: self._most(names, share)]
            elif self._limits.scope == "LAYER":
                yield ranked[: self._most(names, min(ratio, self.highest))]
            else:
                free[names] = ranked[: self._most(names, self.highest)]
        if free:
            there = sum(len(self._ranked[names]) for names in free)
            whole = sum(map(self._whole, free))
            together = np.concatenate(list(free.values()))
            order = np.argsort(self._scores[together], kind="stable")
            yield together[order[: max(0, there - whole + _part(ratio, whole))]]

    def _most(self, names: tuple[str, ...], share: float) -> int:
        """Return how many channels to remove for a share of what was there once."""
        whole = self._whole(names)
        kept = max(1, whole - _part(share, whole))
        return max(0, len(self._ranked[names]) - kept)

    def _whole(self, names: tuple[str, ...]) -> int:
        return self._limits.whole.get(names, len(self._ranked[names]))

    def _share_of(self, names: tuple[str, ...]) -> float | None:
        given = {name: self._limits.shares[name] for name in names if name in self._limits.shares}
        if len(set(given.values())) > 1:
            listed = " ".join(f"{name}={share:g}" for name, share in given.items())
            raise UsageError(
                f"-layer_ratio {listed}: the channels of these layers can only be removed "
                "together. Give them the same ratio"
            )
        return next(iter(given.values()), None)


def _part(share: float, whole: int) -> int:
    return int(share * whole + _ROUNDING)
