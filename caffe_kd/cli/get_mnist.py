"""``get_mnist``: finds, downloads or makes the handwritten digits."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import CaffeKDError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = _parser().parse_args(argv)
    from ..data.mnist import get_mnist

    try:
        digits = get_mnist(Path(arguments.dir), allow_download=not arguments.no_download)
    except CaffeKDError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    print(f"{digits.kind}: {digits.folder}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="get_mnist",
        allow_abbrev=False,
        description="Looks for the four MNIST files in -dir, data/mnist and ../shared/data/mnist; "
        "else downloads them to -dir; else writes the small digits of scikit-learn to "
        "-dir/digits, whose figures are not MNIST's. The last line tells what there is, and where.",
    )
    parser.add_argument(
        "-dir",
        "--dir",
        default="data/mnist",
        metavar="FOLDER",
        help="where the files are or shall be (default: %(default)s)",
    )
    parser.add_argument(
        "-no_download", "--no_download", action="store_true", help="leave the network alone"
    )
    return parser
