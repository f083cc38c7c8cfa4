"""``get_cifar10``: finds, downloads or makes up CIFAR-10 as databases and mean image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import flags
from .command_parser import CommandParser
from .guard import guarded

SUMMARY = "get CIFAR-10 as LMDB, with its mean image"
GROUP = "train"
EXAMPLE = "-dir data/cifar10"
DESCRIPTION = """Writes cifar10_train_lmdb, cifar10_test_lmdb and mean.binaryproto to -dir, unless
they are there. Looks for cifar-10-binary.tar.gz, then for train.zip and test.zip of JPEG files, in
-dir and ../shared/data/cifar10; else downloads the archive; else takes the small digits of
scikit-learn in colour, whose figures are not CIFAR-10's. JPEG files are stored in an order that is
mixed by a fixed seed; figures on them differ a little from those on the archive's bytes. The last
line says what there is, and where."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    from ..data.cifar10 import get_cifar10

    found = get_cifar10(Path(arguments.dir), allow_download=not arguments.no_download)
    print(f"{found.kind}: {found.folder}")
    return 0


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("get_cifar10", DESCRIPTION, EXAMPLE)
    flags.add(
        parser,
        "dir",
        metavar="FOLDER",
        default="data/cifar10",
        help="where the databases go (default: %(default)s)",
    )
    flags.add(parser, "no_download", action="store_true", help="leave the network alone")
    return parser
