"""The flags that the commands with several trainings share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..core.errors import UsageError
from . import flags, output

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


def add_flags(parser: Any) -> None:
    """Add the flags that such commands share; ``runner`` reads them."""
    flags.add(parser, "output", metavar="FOLDER", help="put snapshots, logs and the table there")
    flags.gpu(parser, "train")
    flags.no_progress(parser)


def runner(arguments: argparse.Namespace) -> ExperimentRunner:
    """Return the runner of the trainings, with the flags' settings."""
    from ..recipes.runner import ExperimentRunner
    from ..solver.run import RunOptions

    progress = False if arguments.no_progress else None
    return ExperimentRunner(output.say, RunOptions(gpu=arguments.gpu, progress=progress))
