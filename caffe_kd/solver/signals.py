"""Handles SIGINT, SIGHUP, SIGTERM and SIGUSR1 in a running solver."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType

from ..core.handlers import Handlers
from .callback import Action, Callback


class SignalActions(Callback):
    """Turns signals into actions while a ``with`` block runs.

    The first SIGINT requests its action; a second one, before that action has been taken,
    interrupts at once.

    Args:
        sigint: the action for Ctrl-C.
        sighup: the action when the terminal hangs up.
        sigterm: the action for SIGTERM, with which Slurm, Kubernetes, docker stop and preemptible
            machines end a run, and for SIGUSR1, with which Slurm may announce it.

    Attributes:
        stopped_by: the last signal that requested a stop.
    """

    def __init__(
        self,
        sigint: Action = Action.STOP,
        sighup: Action = Action.SNAPSHOT,
        sigterm: Action = Action.STOP,
    ) -> None:
        self.stopped_by = signal.SIGINT
        self._effects = {signal.SIGINT: sigint, signal.SIGTERM: sigterm}
        if hasattr(signal, "SIGHUP"):  # not on Windows
            self._effects |= {signal.SIGHUP: sighup, signal.SIGUSR1: sigterm}
        self._got: set[int] = set()
        self._handlers = Handlers()

    def __enter__(self) -> SignalActions:
        for number in self._effects:
            self._handlers.set(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._handlers.restore()

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in self._got:
            raise KeyboardInterrupt
        self._got.add(number)

    def requested(self) -> Action:
        """Return the action requested since the last call; STOP wins over SNAPSHOT."""
        if not self._got:
            return Action.NONE
        got = {signal.Signals(number) for number in self._got}
        self._got -= got  # later signals count in the next call
        actions = {self._effects[number] for number in got}
        for number in got:
            if self._effects[number] is Action.STOP:
                self.stopped_by = number
        return next(a for a in (Action.STOP, Action.SNAPSHOT, Action.NONE) if a in actions)
