"""The base of the training loop's callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .solver import Solver


class Action(Enum):
    """What the solver should do after the iteration at hand."""

    NONE = "none"
    SNAPSHOT = "snapshot"
    STOP = "stop"


class Callback:
    """A feature of the training loop. Each hook does nothing unless a feature overrides it.

    The solver calls a hook of all its callbacks in the order of ``solver.callbacks``. A hook that
    a callback does not override is never called, so it adds no cost to an iteration.

    Attributes:
        name: the name of its ``state`` in a ``.resume``; required if it has state.
    """

    name = ""

    def on_load(self, solver: Solver) -> None:
        """Weights have been read from a file."""

    def on_restore(self, solver: Solver, weights: Path) -> None:
        """A snapshot's state and its weights, from that file, have been read."""

    def on_start(self, solver: Solver) -> None:
        """``step`` begins; all weights are loaded. It will end at ``solver.stop_iter``."""

    def before_forward(self, solver: Solver) -> None:
        """An iteration's passes begin."""

    def after_backward(self, solver: Solver) -> None:
        """One of an iteration's ``iter_size`` passes is done; its gradients have been added."""

    def before_update(self, solver: Solver) -> None:
        """All passes' gradients have been summed, and the iteration has been displayed."""

    def after_update(self, solver: Solver) -> None:
        """The parameters have been updated; ``solver.iter`` still counts up to this iteration."""

    def before_test(self, solver: Solver, index: int) -> None:
        """Test net ``index`` is about to be run."""

    def on_test(self, solver: Solver, results: Sequence[dict[str, list[float]]]) -> None:
        """All test nets have been run; ``results`` has the means of each one's outputs."""

    def on_snapshot(self, solver: Solver) -> None:
        """A snapshot is about to be written."""

    def on_end(self, solver: Solver) -> None:
        """``solve`` has run its iterations; the final display and test have not run yet."""

    def requested(self) -> Action:
        """Return what the solver should do now; called after each update and in tests."""
        return Action.NONE

    def state(self) -> dict[str, np.ndarray]:
        """Return the state that a resumed run needs."""
        return {}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from a state that ``state`` returned."""


def overriding(callbacks: Iterable[Callback], hook: str) -> tuple[Callable[..., Any], ...]:
    """Return the bound methods of the callbacks that override a hook, in their order."""
    plain = getattr(Callback, hook)
    return tuple(getattr(c, hook) for c in callbacks if getattr(type(c), hook) is not plain)
