"""The base of layers that normalise with batch statistics in TRAIN, and running ones in TEST."""

from __future__ import annotations

import abc

import torch
from torch import Tensor

from ..base import Layer


class Totals:
    """Sums of each channel's mean and variance over batches, in float64."""

    def __init__(self) -> None:
        self.batches = 0
        self._sums: list[Tensor] = []

    @torch.no_grad()
    def add(self, mean: Tensor, var: Tensor) -> None:
        """Add one batch's statistics."""
        values = [value.detach().double() for value in (mean, var)]
        pairs = zip(self._sums, values, strict=True)
        self._sums = [total + value for total, value in pairs] if self._sums else values
        self.batches += 1

    def average(self) -> tuple[Tensor, Tensor]:
        """Return the averages of the means and of the variances, float32."""
        mean, var = ((value / self.batches).float() for value in self._sums)
        return mean, var


class BatchStatistics(Layer):
    """A layer with a running mean and variance of each channel, which it uses in TEST.

    Attributes:
        use_global_stats: whether it normalises with the running statistics, not the batch's.
        last_batch: mean and variance of the last batch it normalised with; None before that.
        totals: if set, batch statistics are added to it and the running ones are not updated.
    """

    use_global_stats: bool
    last_batch: tuple[Tensor, Tensor] | None = None
    totals: Totals | None = None

    @property
    def updates_running_stats(self) -> bool:
        """Whether it normalises with batch statistics and updates the running ones."""
        return not self.use_global_stats

    @property
    @abc.abstractmethod
    def window(self) -> float:
        """How many batches the running statistics average over, about: 1 / (1 - f)."""

    @property
    @abc.abstractmethod
    def eps(self) -> float:
        """What is added to the variance."""

    @abc.abstractmethod
    def running_stats(self) -> tuple[Tensor, Tensor]:
        """Return each channel's running mean and variance."""

    @abc.abstractmethod
    def set_running_stats(self, mean: Tensor, var: Tensor, batches: int) -> None:
        """Replace the running statistics by averages over so many batches."""

    @abc.abstractmethod
    def update_running_stats(self, mean: Tensor, var: Tensor) -> None:
        """Update the running statistics with those of a batch."""

    def take_batch(self, mean: Tensor, var: Tensor) -> None:
        """Update the running statistics, or ``totals`` if it is set."""
        self.last_batch = mean, var
        if self.totals is None:
            self.update_running_stats(mean, var)
        else:
            self.totals.add(mean, var)
