"""Errors of a command as one paragraph, and its exit status.

A command that a signal ends before its work is done exits with 128 + the signal's number, as is
usual in shells (130 for Ctrl-C, 143 for SIGTERM), whether or not it has saved its state.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType

from ..core.errors import CaffeKDError, Stopped, printable
from ..core.handlers import Handlers
from ..python_layers import user_code
from . import silent_end

if signal.getsignal(signal.SIGINT) is silent_end:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_ENDING = {
    getattr(signal, name): message
    for name, message in {
        "SIGINT": "interrupted",
        "SIGTERM": "terminated",
        "SIGHUP": "terminated by the hangup of its terminal",
        "SIGUSR1": "terminated by SIGUSR1",
    }.items()
    if hasattr(signal, name)  # Windows has the first two
}


def guarded(command: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
    """Wrap a command so that a user's mistake is reported in one paragraph, without a traceback.

    A prototxt's Python layers run in it only where -python_layers is given.
    """

    def main(argv: Sequence[str] | None = None) -> int:
        with user_code.forbidden(), _Signals() as signals:
            try:
                status = command(argv)
                if sys.stdout is not None:
                    sys.stdout.flush()  # so that an error in writing is reported here, not at exit
                return status
            except BrokenPipeError:  # the reader of our output has gone
                _give_up_stdout()
                return 1
            except (Exception, KeyboardInterrupt) as error:
                return _report(error, signals.received)

    main.__doc__ = command.__doc__
    return main


class _Signals:
    """Turns the signals that end a program into KeyboardInterrupt, so that it cleans up.

    Attributes:
        received: the last one; libraries may turn the exception into another.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._handlers = Handlers()

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for number in _ENDING:
                before = signal.getsignal(number)
                # Otherwise it has another handler already, such as nohup's.
                if before in (signal.SIG_DFL, signal.default_int_handler):
                    self._handlers.set(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        self._handlers.restore()

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        raise KeyboardInterrupt


def _report(error: BaseException, received: int | None) -> int:
    """Print a user's mistake or the machine's limit; return the exit status.

    Raises:
        BaseException: it is neither, but a bug in this package.
    """
    if isinstance(error, KeyboardInterrupt) and received is None:
        received = signal.SIGINT
    status = 1 if received is None else 128 + received
    if isinstance(error, CaffeKDError) and (received is None or isinstance(error, Stopped)):
        status = error.exit_status
        if error.logged:
            return status
    message = _message(error, received)
    if message is None:
        raise error
    if isinstance(error, OSError):
        _give_up_stdout()
    print(printable(message), file=sys.stderr)
    return status


def _message(error: BaseException, received: int | None) -> str | None:
    """Return what to print of an error; None: it is a bug in this package."""
    if isinstance(error, Stopped):
        return str(error)
    if received is not None:
        return _ENDING[signal.Signals(received)]
    if isinstance(error, CaffeKDError):
        return f"error: {error}"
    if isinstance(error, UnicodeEncodeError):
        return f"error: {ascii(error.object)[:200]} is not UTF-8, as names must be"
    if isinstance(error, ValueError) and "embedded null" in str(error):  # of open() and the like
        return "error: a file's name cannot hold a NUL character"
    if isinstance(error, FileNotFoundError) and error.filename is None:
        return "error: the working folder is no longer there"
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"error: {where}{error.strerror}"
    if _is_lack_of_memory(error):
        return "error: not enough memory for a net or batch of this size: lower batch_size"
    return None


def _is_lack_of_memory(error: BaseException) -> bool:
    words = ("can't allocate memory", "not enough memory", "out of memory")  # torch's
    is_torchs = isinstance(error, RuntimeError) and any(w in str(error) for w in words)
    return is_torchs or isinstance(error, MemoryError)


def _give_up_stdout() -> None:
    """Discard what could not be written, or Python would try and fail again at exit."""
    stdout = sys.__stdout__
    if stdout is not None and sys.stdout is stdout:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stdout.fileno())
        os.close(nowhere)
