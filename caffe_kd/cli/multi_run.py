"""What the commands share that train again and again: their flags."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..core.errors import UsageError
from . import common

if TYPE_CHECKING:
    from ..recipes.runner import ExperimentRunner


def count(text: str, name: str) -> int:
    """Return the number that a flag gives.

    Raises:
        UsageError: it is not a whole number above 0.
    """
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"-{name} must be a whole number above 0: {text}")
    return int(text)


def flags(parser: Any) -> None:
    """Add the flags that such commands share; ``runner`` takes them."""
    common.flag(parser, "output", metavar="FOLDER", help="put snapshots, logs and the table there")
    common.flag(parser, "gpu", metavar="N", help="the CUDA device to train on (default: the CPU)")
    parser.add_argument(
        "-no_progress", "--no_progress", action="store_true", help="no line of progress"
    )


def runner(arguments: argparse.Namespace) -> ExperimentRunner:
    """Return what trains as the flags say."""
    from ..recipes.runner import ExperimentRunner
    from ..solver.run import RunOptions

    progress = False if arguments.no_progress else None
    return ExperimentRunner(common.say, RunOptions(gpu=arguments.gpu, progress=progress))
