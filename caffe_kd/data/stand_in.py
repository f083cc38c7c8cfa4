"""Digits that stand in for MNIST where it is not available: how a folder states that it holds them.

They have the names of MNIST's files, so that every net finds them. A text file beside them lists
them with their sizes, which distinguishes them from real files put into the folder later.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..core.files import write_atomically

MARKER = "NOT_MNIST.txt"
WHAT = "the 1797 small digits that ship with scikit-learn, not MNIST"
_TEXT = f"""These files are {WHAT}. What is measured on them is not
MNIST's. Put the real files here, plain or as .gz, and they are used in place of these.
"""


def mark(paths: Sequence[Path]) -> None:
    """Write the file that names these files, all of one folder, as stand-ins."""
    names = "".join(f"{path.stat().st_size} {path.name}\n" for path in paths)
    write_atomically(paths[0].parent / MARKER, f"{_TEXT}\n{names}".encode())


def is_stand_in(path: Path) -> bool:
    """Return whether a file is one that its folder names as a stand-in."""
    try:
        lines = (path.parent / MARKER).read_text(encoding="utf-8").splitlines()
        return f"{path.stat().st_size} {path.name}" in lines
    except (OSError, ValueError):  # no such folder or file, or the marker is something else
        return False
