"""What the commands share: flags in Caffe's spelling, and errors as one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

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


def guarded(command: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
    """Wrap a command so that a user's mistake is told in one paragraph, without a traceback."""

    def main(argv: Sequence[str] | None = None) -> int:
        try:
            return command(argv)
        except CaffeKDError as error:
            if not error.told:
                print(f"error: {error}", file=sys.stderr)
            return error.exit_status
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:  # the reader of our output has gone
            sys.stderr.close()
            return 1

    main.__doc__ = command.__doc__
    return main


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
    numbers = range(count) if gpu == "all" else [_gpu_number(part) for part in comma_list(gpu)]
    if not numbers or any(number >= count for number in numbers):
        raise UsageError(
            f"-gpu {gpu}: there are {count} CUDA devices here"
            + ("; leave -gpu out to run on the CPU" if not count else f", 0 to {count - 1}")
        )
    if len(numbers) > 1:
        raise UsageError(f"-gpu {gpu}: training runs on one GPU; name one of 0 to {count - 1}")
    return torch.device("cuda", numbers[0]), f"Using GPUs {numbers[0]}"


def _gpu_number(text: str) -> int:
    if not text.isdigit():
        raise UsageError(f"-gpu takes a device number, as '-gpu 0'. Received: {text}")
    return int(text)
