"""What SIGINT and SIGHUP make a running solver do."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

from .callback import Action, Callback


class SignalActions(Callback):
    """Turns signals into actions while a ``with`` block runs.

    The first SIGINT asks for its action; a second one, while the first has not been acted upon,
    interrupts at once.
    """

    def __init__(self, sigint: Action = Action.STOP, sighup: Action = Action.SNAPSHOT) -> None:
        self._effects = {signal.SIGINT: sigint}
        if hasattr(signal, "SIGHUP"):  # not on Windows
            self._effects[signal.SIGHUP] = sighup
        self._got: set[int] = set()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> SignalActions:
        for number in self._effects:
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in self._got:
            raise KeyboardInterrupt
        self._got.add(number)

    def requested(self) -> Action:
        """Return the action asked for since the last call; STOP wins over SNAPSHOT."""
        if not self._got:
            return Action.NONE
        actions = {self._effects[signal.Signals(n)] for n in self._got}
        self._got.clear()
        return next(a for a in (Action.STOP, Action.SNAPSHOT, Action.NONE) if a in actions)
