"""Where the example nets are: beside the package in a checkout, inside it when installed."""

from __future__ import annotations

from pathlib import Path

from .errors import CaffeKDError


def folder(name: str) -> Path:
    """Return a folder of ``prototxt/``, such as ``mnist``.

    Raises:
        CaffeKDError: the installation lacks it.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent / "prototxt", package / "prototxt"):
        if (folder / name).is_dir():
            return folder / name
    raise CaffeKDError(f"the example nets '{name}' are missing from this installation: {package}")
