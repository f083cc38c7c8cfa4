"""Prefetching: computing results ahead in a thread."""

from __future__ import annotations

import atexit
import os
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Prefetch(Generic[Made]):
    """Returns the results of calling a method again and again, up to ``depth`` calls ahead.

    The calls are made one after the other in one thread, which ends with an error, with the object
    that the method belongs to (it is held weakly), with this one, and with the program. The program
    waits for the call it is in, however long: a thread that wakes up in the midst of PyTorch once
    Python is gone would abort it.

    Args:
        make: a method of an object.
        depth: how many results are computed before they are requested, at least 1.
    """

    def __init__(self, make: Callable[[], Made], depth: int) -> None:
        self._process = os.getpid()
        self._ready: queue.SimpleQueue[Made | Exception] = queue.SimpleQueue()
        # A turn per result to make. SimpleQueue.put is safe to call during garbage collection.
        self._turns: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(depth):
            self._turns.put(None)
        self._end = end = _End(self._turns)
        held = weakref.WeakMethod(make, lambda _: end())
        weakref.finalize(self, end)
        self._thread = threading.Thread(
            target=_work, args=(held, self._ready, self._turns, end), name="prefetch", daemon=True
        )
        _running[self._thread] = end
        self._thread.start()

    @property
    def is_lost(self) -> bool:
        """Whether this process was forked from the one with the thread."""
        return self._process != os.getpid()

    def next(self) -> Made:
        """Return the next result, waiting for it if necessary.

        Raises:
            Exception: what the method raised; it is not called again.
        """
        made = self._ready.get()
        self._turns.put(None)
        if isinstance(made, Exception):
            raise made
        return made

    def stop(self) -> None:
        """End the thread after its current call; results made ahead are discarded."""
        self._end()
        if not self.is_lost:
            self._thread.join()


class _End:
    """Ends a thread; holds no reference to its Prefetch, which can be collected."""

    def __init__(self, turns: queue.SimpleQueue[None]) -> None:
        self._turns = turns
        self.is_set = False

    def __call__(self) -> None:
        self.is_set = True
        self._turns.put(None)  # wakes it if it is waiting


# Threads stay here until they have ended altogether, which is after the last line of ``_work``.
_running: weakref.WeakKeyDictionary[threading.Thread, _End] = weakref.WeakKeyDictionary()


def _work(
    make: weakref.WeakMethod[Callable[[], Made]],
    ready: queue.SimpleQueue[Made | Exception],
    turns: queue.SimpleQueue[None],
    end: _End,
) -> None:
    while True:
        turns.get()
        method = make()
        if end.is_set or method is None:
            return
        try:
            ready.put(method())
        except Exception as error:
            ready.put(error)
            return
        del method  # while it waits for its turn, it keeps nothing alive


@atexit.register
def _end_all() -> None:
    """End the threads before the interpreter shuts down."""
    threads = list(_running.items())
    for _, end in threads:
        end()
    for thread, _ in threads:
        thread.join()
