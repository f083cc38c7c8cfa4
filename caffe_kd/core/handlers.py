"""Signal handlers that last for a block, and that no forked process inherits.

A process that a script forks, such as a worker of ``multiprocessing.Pool``, is ended by SIGTERM.
With a handler of ours it would only take note of the signal, and whoever ended it would wait.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], None]


class Handlers:
    """The handlers that a block has set, with those that were there before."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}

    def set(self, number: int, handler: Handler) -> None:
        """Handle a signal until ``restore``; only in the main thread."""
        self._before[number] = signal.signal(number, handler)
        if self not in _ACTIVE:
            _ACTIVE.append(self)

    def restore(self) -> None:
        """Put back what was there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
        if self in _ACTIVE:
            _ACTIVE.remove(self)


_ACTIVE: list[Handlers] = []  # the innermost last


def _restore_in_child() -> None:
    for handlers in reversed(_ACTIVE.copy()):
        handlers.restore()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_restore_in_child)
