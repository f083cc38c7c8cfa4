"""Data that is not quite what its name says: how a folder states what it holds.

Where MNIST or CIFAR-10 is not available, small digits have its files' names, so that every net
finds them. A text file beside them says what they are and lists them with their sizes, which
distinguishes them from real files put into the folder later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.files import write_atomically

MARKER = "NOT_MNIST.txt"
WHAT = "the 1797 small digits that ship with scikit-learn, not MNIST"


@dataclass(frozen=True)
class Origin:
    """What files are that have the names of others.

    Attributes:
        marker: the name of the text file that lists them.
        what: what they are.
        remedy: how the real ones take their place.
    """

    marker: str
    what: str
    remedy: str


MNIST_DIGITS = Origin(
    MARKER, WHAT, "Put the real files here, plain or as .gz, and they are used in place of these."
)
COLORED_DIGITS = Origin(
    "NOT_CIFAR10.txt",
    "the 1797 small digits that ship with scikit-learn, in colour, not CIFAR-10",
    "Run get_cifar10 again where it can reach the real data, and it replaces these.",
)
CIFAR10_JPEG = Origin(
    "FROM_JPEG.txt",
    "CIFAR-10 decoded from JPEG files: figures differ a little from those of the original bytes",
    "Remove these and run get_cifar10 where only cifar-10-binary.tar.gz is found.",
)
_ORIGINS = (MNIST_DIGITS, COLORED_DIGITS, CIFAR10_JPEG)


def mark(paths: Sequence[Path], origin: Origin = MNIST_DIGITS) -> None:
    """Write the file that says what these files or databases, all of one folder, are."""
    names = "".join(f"{_size(path)} {path.name}\n" for path in paths)
    text = f"These files are {origin.what}.\n{origin.remedy}\n\n{names}"
    write_atomically(paths[0].parent / origin.marker, text.encode())


def is_stand_in(path: Path) -> bool:
    """Return whether a file is one that its folder names as a stand-in."""
    return origin_of(path) in (MNIST_DIGITS, COLORED_DIGITS)


def origin_of(path: Path) -> Origin | None:
    """Return what a file or database is, where its folder has more to say than its name."""
    return next((origin for origin in _ORIGINS if _is_listed(path, origin)), None)


def _is_listed(path: Path, origin: Origin) -> bool:
    try:
        lines = (path.parent / origin.marker).read_text(encoding="utf-8").splitlines()
        return f"{_size(path)} {path.name}" in lines
    except (OSError, ValueError):  # no such folder or file, or the marker is something else
        return False


def _size(path: Path) -> int:
    """Return the bytes of a file, or of the file that is an LMDB's folder's content."""
    return (path / "data.mdb" if path.is_dir() else path).stat().st_size
