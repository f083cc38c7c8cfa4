"""The memory of a contrastive loss: the embeddings of the last samples, or of every sample."""

from __future__ import annotations

import abc
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...losses.features import unit

SIDES = ("student", "teacher")
State = dict[str, np.ndarray]


class Memory(abc.ABC):
    """Both nets' embeddings of earlier samples, of length 1.

    Args:
        rows: the largest number of samples.
        width: the number of values in an embedding.
    """

    _sides: list[Tensor]  # the student's embeddings and the teacher's, with spare rows
    _classes: Tensor

    def __init__(self, rows: int, width: int) -> None:
        self.rows, self.width = rows, width
        self.clear()

    def __len__(self) -> int:
        return len(self._classes)

    @property
    def embeddings(self) -> list[Tensor]:
        """The student's embeddings (M, width) and the teacher's."""
        return [side[: len(self)] for side in self._sides]

    def clear(self) -> None:
        """Empty the memory."""
        self._sides = [torch.zeros(0, self.width) for _ in SIDES]
        self._classes = torch.zeros(0)

    def move(self, like: Tensor) -> None:
        """Move the memory to a tensor's device and dtype."""
        self._sides = [side.to(like) for side in self._sides]
        self._classes = self._classes.to(like)

    @abc.abstractmethod
    def negatives(
        self, label: Tensor | None, numbers: Sequence[int]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the rows that are negatives of each sample of a batch.

        Args:
            label: the samples' labels (N); None: all other samples are negatives.
            numbers: the samples' numbers, if the memory uses them.

        Returns:
            The rows, int64 (N, D), None: all; and which of them count, None: all.
        """

    @abc.abstractmethod
    def add(self, sides: Sequence[Tensor], label: Tensor, numbers: Sequence[int]) -> None:
        """Add a batch: student's and teacher's embeddings (N, width), labels, numbers."""

    def state(self) -> State:
        """Return the memory's content."""
        parts = dict(zip(SIDES, self.embeddings, strict=True))
        parts["classes"] = self._classes[: len(self)]
        return {name: part.cpu().numpy().copy() for name, part in parts.items()}

    def restore(self, state: State, device: torch.device) -> None:
        """Set the content to what ``state`` returned.

        Raises:
            ValueError: it does not fit.
        """
        count, shapes = len(state["classes"]), [state[side].shape for side in SIDES]
        if shapes != [(count, self.width)] * 2 or count > self.rows:
            raise ValueError(
                f"it stores {self.rows} embeddings of {self.width} values, but the state has "
                f"the shapes {shapes}"
            )
        self._sides = [torch.from_numpy(state[side].copy()).to(device) for side in SIDES]
        self._classes = torch.from_numpy(state["classes"].copy()).to(device)


class Queue(Memory):
    """The most recent samples' embeddings, the newest last."""

    def negatives(
        self, label: Tensor | None, numbers: Sequence[int]
    ) -> tuple[Tensor | None, Tensor | None]:
        return None, None if label is None else label.unsqueeze(1) != self._classes

    def add(self, sides: Sequence[Tensor], label: Tensor, numbers: Sequence[int]) -> None:
        self._sides = [
            torch.cat([old, new])[-self.rows :] for old, new in zip(self._sides, sides, strict=True)
        ]
        self._classes = torch.cat([self._classes, label])[-self.rows :]


class Bank(Memory):
    """A moving average of each sample's embeddings, from which negatives are drawn at random.

    ``row = n(momentum * row + (1 - momentum) * new)``, where n scales to length 1; the first
    embedding of a sample is its first row. Rows are in the order in which samples are first seen.

    Args:
        rows: the number of samples; their numbers are below.
        width: the number of values in an embedding.
        draws: how many rows are drawn for each sample, with replacement.
        momentum: the weight of the earlier embedding, in 0..1.
        generator: the random number generator of the draws.
    """

    def __init__(
        self, rows: int, width: int, draws: int, momentum: float, generator: torch.Generator
    ) -> None:
        super().__init__(rows, width)
        self.draws, self.momentum, self.generator = draws, momentum, generator

    def __len__(self) -> int:
        self._update()
        return len(self._rows)

    def clear(self) -> None:
        super().clear()
        self._rows: dict[int, int] = {}  # the row of each sample seen, by number
        self._pending: tuple[Sequence[Tensor], Tensor, Sequence[int]] | None = None

    def negatives(
        self, label: Tensor | None, numbers: Sequence[int]
    ) -> tuple[Tensor | None, Tensor | None]:
        device = self._classes.device
        shape = (len(numbers), self.draws)
        drawn = torch.randint(len(self), shape, generator=self.generator).to(device)
        own = torch.tensor([self._rows.get(number, -1) for number in numbers], device=device)
        counted = drawn != own.unsqueeze(1)
        if label is not None:
            counted &= self._classes[drawn] != label.unsqueeze(1)
        return drawn, counted

    def add(self, sides: Sequence[Tensor], label: Tensor, numbers: Sequence[int]) -> None:
        # The rows must not change before the backward pass, which needs them.
        self._update()
        self._pending = (sides, label, numbers)

    def _update(self) -> None:
        """Update the rows with the last batch that was added."""
        if self._pending is None:
            return
        (sides, label, numbers), self._pending = self._pending, None
        latest = {number: at for at, number in enumerate(numbers)}
        known = [(n, at) for n, at in latest.items() if n in self._rows]
        unseen = [(n, at) for n, at in latest.items() if n not in self._rows]
        self._grow(len(self._rows) + len(unseen))
        for number, _ in unseen:
            self._rows[number] = len(self._rows)
        for pairs, share in ((unseen, 0.0), (known, self.momentum)):
            rows, at = [self._rows[n] for n, _ in pairs], [i for _, i in pairs]
            for old, new in zip(self._sides, sides, strict=True):
                old[rows] = unit(share * old[rows] + (1 - share) * new[at])
            self._classes[rows] = label[at]

    def _grow(self, count: int) -> None:
        """Make room for ``count`` rows, usually for more, so that this is rarely needed."""
        room = len(self._classes)
        if count > room:
            more = min(self.rows, max(count, 2 * room)) - room
            self._sides = [torch.cat([x, x.new_zeros(more, self.width)]) for x in self._sides]
            self._classes = torch.cat([self._classes, self._classes.new_zeros(more)])

    def state(self) -> State:
        numbers = np.fromiter(self._rows, np.int64, len(self))
        generator = self.generator.get_state().numpy()
        return {**super().state(), "numbers": numbers, "generator": generator}

    def restore(self, state: State, device: torch.device) -> None:
        numbers = [int(number) for number in state["numbers"]]
        if len(numbers) != len(state["classes"]) or len(set(numbers)) < len(numbers):
            raise ValueError("the state does not have one number for each sample")
        if numbers and not 0 <= min(numbers) <= max(numbers) < self.rows:
            raise ValueError(f"the state has sample numbers above {self.rows - 1}")
        super().restore(state, device)
        self.generator.set_state(torch.from_numpy(state["generator"].copy()))
        self._rows = {number: row for row, number in enumerate(numbers)}
        self._pending = None
