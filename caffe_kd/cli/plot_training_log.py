"""``plot_training_log``: draws the curves of one or more training logs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..core.errors import DataError, UsageError
from . import flags
from .command_parser import CommandParser
from .guard import guarded

SUMMARY = "draw the curves of training logs"
GROUP = "check"
EXAMPLE = "output/quickstart/student.log -output training.png"
DESCRIPTION = """Draws training loss, test accuracy and learning rate over the iterations, from logs
of caffe_kd or BVLC Caffe; several logs are drawn into the same axes."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    _plot([Path(log) for log in arguments.logs], Path(arguments.output), arguments.title)
    print(arguments.output)
    return 0


def _plot(paths: Sequence[Path], output: Path, title: str) -> None:
    from ..logs.log_parser import parse_log
    from ..logs.plot import plot

    if output.suffix.lower() != ".png":
        raise UsageError(f"-output must end with .png. Received: {output}")
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise DataError(f"no such file: {', '.join(missing)}. Looked from {Path.cwd()}")
    logs = {label: parse_log(path) for label, path in _labels(paths).items()}
    plot(logs, output, title)


def _labels(paths: Sequence[Path]) -> dict[str, Path]:
    """Name each log by its file; if files of several folders have the same name, by its path."""
    paths = list(dict.fromkeys(paths))
    names = {path: path.stem if path.suffix in (".log", ".txt") else path.name for path in paths}
    times = Counter(names.values())
    return {name if times[name] == 1 else str(path): path for path, name in names.items()}


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("plot_training_log", DESCRIPTION, EXAMPLE)
    parser.add_argument("logs", nargs="+", metavar="LOG", help="a training log")
    flags.add(
        parser,
        "output",
        default="training.png",
        metavar="PNG",
        help="the image file to write (default: %(default)s)",
    )
    flags.add(parser, "title", default="", help="the figure's title")
    return parser
