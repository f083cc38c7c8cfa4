"""The base of layers that normalise by their batch in TRAIN and by averages of batches in TEST."""

from __future__ import annotations

import abc

import torch
from torch import Tensor

from ..base import Layer


class Totals:
    """Sums over batches of each channel's mean and variance, in float64."""

    def __init__(self) -> None:
        self.batches = 0
        self._sums: list[Tensor] = []

    @torch.no_grad()
    def add(self, mean: Tensor, var: Tensor) -> None:
        """Add those of one batch."""
        values = [value.detach().double() for value in (mean, var)]
        pairs = zip(self._sums, values, strict=True)
        self._sums = [total + value for total, value in pairs] if self._sums else values
        self.batches += 1

    def average(self) -> tuple[Tensor, Tensor]:
        """Return the averages of the means and of the variances, float32."""
        mean, var = ((value / self.batches).float() for value in self._sums)
        return mean, var


class BatchStatistics(Layer):
    """A layer that keeps averages of each channel's mean and variance, which it uses in TEST.

    Attributes:
        stored: whether it normalises by what it keeps, not by the batch.
        last_batch: mean and variance of the last batch it normalised by, before that None.
        totals: takes those of each batch in place of the kept averages, while it is there.
    """

    stored: bool
    last_batch: tuple[Tensor, Tensor] | None = None
    totals: Totals | None = None

    @property
    def follows(self) -> bool:
        """Whether it normalises by each batch and keeps averages of them."""
        return not self.stored

    @property
    @abc.abstractmethod
    def window(self) -> float:
        """How many batches the kept averages reach back, about: 1 / (1 - f)."""

    @property
    @abc.abstractmethod
    def eps(self) -> float:
        """What is added to the variance."""

    @abc.abstractmethod
    def kept(self) -> tuple[Tensor, Tensor]:
        """Return the mean and variance of each channel that it would use in TEST."""

    @abc.abstractmethod
    def keep(self, mean: Tensor, var: Tensor, batches: int) -> None:
        """Keep these averages of so many batches in place of the former ones."""

    @abc.abstractmethod
    def follow(self, mean: Tensor, var: Tensor) -> None:
        """Move the kept averages towards the values of a batch."""

    def take_batch(self, mean: Tensor, var: Tensor) -> None:
        """Do with the statistics of a batch what the layer is there for."""
        self.last_batch = mean, var
        if self.totals is None:
            self.follow(mean, var)
        else:
            self.totals.add(mean, var)
