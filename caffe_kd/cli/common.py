"""What the commands share: flags in Caffe's spelling, and errors as one line."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from .. import user_code
from ..errors import CaffeKDError, UsageError

if TYPE_CHECKING:
    import torch


def parser(name: str, description: str, **options: Any) -> argparse.ArgumentParser:
    """Return a parser that takes no abbreviated flags."""
    return argparse.ArgumentParser(
        prog=name, description=description, allow_abbrev=False, **options
    )


def flag(to: Any, name: str, **options: Any) -> None:
    """Add a flag in either spelling: ``-name x`` and ``--name=x``."""
    to.add_argument(f"-{name}", f"--{name}", **options)


class _AllowPythonLayers(argparse.Action):
    """Lets code that a prototxt names run for the rest of the command."""

    def __call__(self, *_: Any) -> None:
        user_code.allow()


def python_layers_flag(to: Any) -> None:
    """Add the flag without which a command builds no net with a layer of type Python."""
    flag(
        to,
        "python_layers",
        action=_AllowPythonLayers,
        nargs=0,
        default=False,
        help="run the code of layers of type Python, from the modules that the prototxt names",
    )


def glog_flags(to: Any) -> None:
    """Take the original's flags that send the log to stderr, where ours goes anyhow."""
    for name in ("logtostderr", "alsologtostderr"):
        flag(
            to,
            name,
            nargs="?",
            const="1",
            choices=["1", "true"],
            help="for old scripts: the log is on stderr always",
        )


def int32(text: str) -> int:
    """Return the number a flag gives, which a field of a prototxt can hold."""
    value = int(text)
    if not -(2**31) <= value < 2**31:
        raise argparse.ArgumentTypeError(f"{text} is beyond 32 bits")
    return value


def guarded(command: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
    """Wrap a command so that a user's mistake is told in one paragraph, without a traceback.

    A prototxt's Python layers run in it only where ``python_layers_flag`` is given.
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


def print_prototxt(message: Any) -> None:
    """Print a message as prototxt, with escapes where stdout cannot show its letters."""
    from ..proto import text

    content = text.to_text(message)
    try:
        content.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        content = text.to_text(message, as_utf8=False)
    print(content, end="")


def comma_list(text: str | None) -> list[str]:
    """Split ``a,b`` into its parts."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def choose_device(gpu: str | None, solver_mode_gpu: bool | None) -> tuple[torch.device, str]:
    """Return the device to run on and what to log about it.

    Args:
        gpu: the ``-gpu`` flag: a device number, ``all``, or None.
        solver_mode_gpu: whether the solver asks for a GPU; None if it says nothing.

    Raises:
        UsageError: ``-gpu`` names a device there is not.
    """
    import torch

    count = torch.cuda.device_count()
    if gpu is None:
        if solver_mode_gpu and not count:
            return torch.device("cpu"), "Use CPU. (solver_mode is GPU, but there is no CUDA device)"
        return (
            (torch.device("cuda", 0), "Using GPUs 0")
            if solver_mode_gpu
            else (torch.device("cpu"), "Use CPU.")
        )
    numbers = gpu_numbers(gpu, count)
    if len(numbers) > 1:
        raise UsageError(f"-gpu {gpu}: training runs on one GPU; name one of 0 to {count - 1}")
    return torch.device("cuda", numbers[0]), f"Using GPUs {numbers[0]}"


def gpu_numbers(gpu: str, count: int) -> Sequence[int]:
    """Return the devices that ``-gpu`` names: numbers separated by commas, or ``all``.

    Raises:
        UsageError: it names none, or one beyond the ``count`` that there are.
    """
    numbers = range(count) if gpu == "all" else [_gpu_number(part) for part in comma_list(gpu)]
    if not numbers or any(number >= count for number in numbers):
        raise UsageError(
            f"-gpu {gpu}: there are {count} CUDA devices here"
            + ("; leave -gpu out to run on the CPU" if not count else f", 0 to {count - 1}")
        )
    return numbers


def _gpu_number(text: str) -> int:
    if not text.isdigit():
        raise UsageError(f"-gpu takes a device number, as '-gpu 0'. Received: {text}")
    return int(text)
