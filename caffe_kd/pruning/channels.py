"""Channels by number, and which of them can only be removed together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..layers import Shape

Ids = NDArray[np.int64]  # channels by their numbers, in the order of an axis


class ChannelSets:
    """Sets of channels that stay or go together: a union-find forest."""

    def __init__(self) -> None:
        self._parent: list[int] = []

    def new(self, count: int) -> Ids:
        """Return so many new channels, each a set of its own."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count)

    def unite(self, some: Ids, others: Ids) -> None:
        """Tie the channels of two equally long axes, one by one."""
        for one, other in zip(some.tolist(), others.tolist(), strict=True):
            a, b = self._find(one), self._find(other)
            if a != b:
                self._parent[max(a, b)] = min(a, b)

    def roots(self) -> Ids:
        """Return the number of each channel's set: that of its first channel."""
        return np.array([self._find(i) for i in range(len(self._parent))], np.int64)

    def _find(self, index: int) -> int:
        parent = self._parent
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index


@dataclass(frozen=True)
class Value:
    """Where a blob of the net has its channels.

    Attributes:
        axis: the axis they lie along.
        ids: the channel of each of the axis' positions; after a Flatten several have the same.
    """

    axis: int
    ids: Ids

    def spread(self, shape: Shape) -> Any:
        """Return an array of one sample's shape that holds each value's channel."""
        sample = (1, *shape[1:]) if self.axis else shape
        along = [-1 if axis == self.axis else 1 for axis in range(len(shape))]
        return np.broadcast_to(self.ids.reshape(along), sample)


def gathered(spread: Any) -> Value | None:
    """Return where the channels of a spread array lie, if they do along one axis alone."""
    for axis in range(1, spread.ndim):
        first = tuple(slice(None) if i == axis else slice(0, 1) for i in range(spread.ndim))
        if (spread == spread[first]).all():
            return Value(axis, np.ascontiguousarray(spread[first].reshape(-1)))
    return None
