"""Bottoms whose values are indices, such as labels that name classes."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from ..base import Layer


class IndexingLayer(Layer):
    """A layer with a bottom of whole numbers that choose among a number of things."""

    # On a CUDA device: the extremes of the last batch's indices on their way to the host.
    _arriving: tuple[torch.cuda.Event, Tensor, int] | None = None

    @property
    def index_bottoms(self) -> dict[int, int]:
        """The bottoms of indices, each with how many there are, where parameters alone say so."""
        return {}

    def read_indices(self, values: Tensor, count: int, ignored: int | None = None) -> Tensor:
        """Return the values as integers, having refused those outside 0..count-1.

        A CUDA device is not waited for: its values are looked at when the next batch comes, and
        until then one that is out of range counts as the nearest that is not.
        """
        values = values.long()
        if values.is_meta or not values.numel():
            return values  # it has a shape alone, or Filter kept nothing
        exempt = None if ignored is None else values == ignored
        low, high = (values if exempt is None else values.masked_fill(exempt, 0)).aminmax()
        if not values.is_cuda:
            self._refuse_outside(int(low), int(high), count)
            return values
        if self._arriving is not None:
            event, extremes, arriving_count = self._arriving
            event.synchronize()
            self._refuse_outside(int(extremes[0]), int(extremes[1]), arriving_count)
        extremes = torch.stack((low, high)).to("cpu", non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._arriving = event, extremes, count
        near = values.clamp(0, count - 1)
        return near if exempt is None else torch.where(exempt, values, near)

    def _refuse_outside(self, low: int, high: int, count: int) -> None:
        if low < 0 or high >= count:
            self.refuse_index(low if low < 0 else high, count)

    def refuse_index(self, index: int, count: int) -> NoReturn:
        """Fail because of an index outside 0..count-1."""
        raise NotImplementedError
