"""The base of data layers whose records have numbers."""

from __future__ import annotations

import abc

import numpy as np
import torch
from torch import Tensor

from .base import Layer

Indices = slice | np.ndarray


class RecordLayer(Layer):
    """Gives batches of numbered records: which ones is ``next_indices``, what they are ``read``.

    The two are apart so that what frozen layers make of a record can be remembered by its number,
    and so that a run can go on at the record where it stopped.

    Attributes:
        last: the numbers of the batch given last.
        position: where in the order of records the next batch begins.
        contents: counts how often the records were exchanged for others.
        generator: the layer's own random numbers.
    """

    last: Indices = slice(0, 0)
    position = 0
    contents = 0
    generator: torch.Generator

    def seed(self) -> None:
        """Make the layer's random numbers, which ``random_seed`` rules."""
        self.generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))

    @property
    @abc.abstractmethod
    def record_count(self) -> int:
        """How many records there are."""

    @property
    @abc.abstractmethod
    def deterministic(self) -> bool:
        """Whether a record is the same each time it is read."""

    @abc.abstractmethod
    def next_indices(self) -> Indices:
        """Return which records the next batch holds, and move on."""

    @abc.abstractmethod
    def read(self, indices: Indices) -> tuple[Tensor, ...]:
        """Return the tops for some records."""

    def forward(self) -> tuple[Tensor, ...]:  # type: ignore[override]
        self.last = self.next_indices()
        return self.read(self.last)

    def state(self) -> dict[str, np.ndarray]:
        return {
            "position": np.array(self.position),
            "generator": self.generator.get_state().numpy(),
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        self.position = int(state["position"])
        self.generator.set_state(torch.from_numpy(state["generator"].copy()))
