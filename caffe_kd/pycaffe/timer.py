"""Timer: a stopwatch that waits for the device."""

from __future__ import annotations

import time

import torch


class Timer:
    """Measures the time between ``start`` and ``stop``; on a CUDA device, including its work.

    Source: pycaffe's Timer.
    """

    def __init__(self) -> None:
        self._begin: float | None = None
        self._elapsed = 0.0

    @staticmethod
    def _now() -> float:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
        return time.perf_counter()

    def start(self) -> None:
        """Start measuring, unless it is running."""
        if self._begin is None:
            self._begin = self._now()

    def stop(self) -> None:
        """Stop measuring."""
        if self._begin is not None:
            self._elapsed = self._now() - self._begin
            self._begin = None

    @property
    def ms(self) -> float:
        """The time measured last in milliseconds; a running watch is stopped."""
        self.stop()
        return 1000 * self._elapsed
