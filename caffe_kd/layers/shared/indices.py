"""Bottoms whose values are indices, such as labels that name classes."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from ..base import Layer


class IndexingLayer(Layer):
    """A layer with a bottom of indices: whole numbers from 0 to a count."""

    # On a CUDA device: the last batch's smallest and largest index, being copied to the host.
    _pending: tuple[torch.cuda.Event, Tensor, int] | None = None

    @property
    def index_bottoms(self) -> dict[int, int]:
        """The bottoms of indices, each with the count of valid ones, if that is fixed."""
        return {}

    def read_indices(self, values: Tensor, count: int, ignored: int | None = None) -> Tensor:
        """Return the values as integers, after checking that they are in 0..count-1.

        On a CUDA device, without synchronizing: values are checked with the next batch, and until
        then those out of range are clamped.
        """
        values = values.long()
        if values.is_meta or not values.numel():
            return values  # a shape without values, or Filter selected nothing
        exempt = None if ignored is None else values == ignored
        low, high = (values if exempt is None else values.masked_fill(exempt, 0)).aminmax()
        if not values.is_cuda:
            self._refuse_outside(int(low), int(high), count)
            return values
        if self._pending is not None:
            event, extremes, pending_count = self._pending
            event.synchronize()
            self._refuse_outside(int(extremes[0]), int(extremes[1]), pending_count)
        extremes = torch.stack((low, high)).to("cpu", non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._pending = event, extremes, count
        near = values.clamp(0, count - 1)
        return near if exempt is None else torch.where(exempt, values, near)

    def _refuse_outside(self, low: int, high: int, count: int) -> None:
        if low < 0 or high >= count:
            self.refuse_index(low if low < 0 else high, count)

    def refuse_index(self, index: int, count: int) -> NoReturn:
        """Fail because of an index outside 0..count-1."""
        raise NotImplementedError
