"""Errors of a command as one paragraph, and its exit status."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from .. import user_code
from ..errors import CaffeKDError


def guarded(command: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
    """Wrap a command so that a user's mistake is told in one paragraph, without a traceback.

    A prototxt's Python layers run in it only where -python_layers is given.
    """

    def main(argv: Sequence[str] | None = None) -> int:
        with user_code.forbidden(), _Interrupts() as interrupts:
            try:
                status = command(argv)
                if sys.stdout is not None:
                    sys.stdout.flush()  # what cannot be written is told here, not at the very end
                return status
            except BrokenPipeError:  # the reader of our output has gone
                _give_up_stdout()
                return 1
            except (Exception, KeyboardInterrupt) as error:
                return _tell(error, interrupts.any)

    main.__doc__ = command.__doc__
    return main


class _Interrupts:
    """Remembers whether Ctrl-C was pressed: libraries make other errors of it."""

    def __init__(self) -> None:
        self.any = False
        self._before: Any = None

    def __enter__(self) -> _Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGINT)
        if self._before is signal.default_int_handler:  # else somebody else looks after it
            signal.signal(signal.SIGINT, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._before)

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        self.any = True
        raise KeyboardInterrupt


def _tell(error: BaseException, interrupted: bool) -> int:
    """Tell a user's mistake or the machine's limit; return the exit status.

    Raises:
        BaseException: it is neither, but a fault of ours.
    """
    status = 1
    if interrupted or isinstance(error, KeyboardInterrupt):
        message, status = "interrupted", 130
    elif isinstance(error, CaffeKDError):
        message, status = f"error: {error}", error.exit_status
        if error.told:
            return status
    elif isinstance(error, UnicodeEncodeError):
        message = f"error: {ascii(error.object)[:200]} is not UTF-8, as names must be"
    elif isinstance(error, FileNotFoundError) and error.filename is None:
        message = "error: the working folder is no longer there"
    elif isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        message = f"error: {where}{error.strerror}"
        _give_up_stdout()
    elif _is_lack_of_memory(error):
        message = "error: not enough memory for a net or batch of this size: lower batch_size"
    else:
        raise error
    print(message, file=sys.stderr)
    return status


def _is_lack_of_memory(error: BaseException) -> bool:
    words = ("can't allocate memory", "not enough memory", "out of memory")  # torch's
    told = isinstance(error, RuntimeError) and any(w in str(error) for w in words)
    return told or isinstance(error, MemoryError)


def _give_up_stdout() -> None:
    """Let what could not be written go nowhere, or Python would try and fail again at its end."""
    stdout = sys.__stdout__
    if stdout is not None and sys.stdout is stdout:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stdout.fileno())
        os.close(nowhere)
