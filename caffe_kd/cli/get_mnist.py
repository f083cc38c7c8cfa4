"""``get_mnist``: finds, downloads or makes the handwritten digits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import flags
from .command_parser import CommandParser
from .guard import guarded

SUMMARY = "get the handwritten digits"
GROUP = "train"
EXAMPLE = "-dir data/mnist"
DESCRIPTION = """Looks for the four MNIST files in -dir, data/mnist and ../shared/data/mnist; else
downloads them; else uses the small digits of scikit-learn, with which results are not comparable to
MNIST's. The files end up in -dir. The last line printed is what was found, and where."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    from ..data.mnist import copy_to, get_mnist

    folder = Path(arguments.dir)
    digits = copy_to(get_mnist(folder, allow_download=not arguments.no_download), folder)
    print(f"{digits.kind}: {digits.folder}")
    return 0


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("get_mnist", DESCRIPTION, EXAMPLE)
    flags.digits(parser)
    return parser
