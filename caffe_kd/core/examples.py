"""Where the example nets are: inside the package when installed, beside it in a checkout."""

from __future__ import annotations

from pathlib import Path

from .errors import CaffeKDError

FOLDER = "prototxt"
_PACKAGE = Path(__file__).resolve().parents[1]


def root() -> Path:
    """Return the folder of all examples.

    Raises:
        CaffeKDError: the installation lacks it.
    """
    found = _root()
    if found is None:
        raise CaffeKDError(f"the example nets are missing from this installation: {_PACKAGE}")
    return found


def folder(name: str) -> Path:
    """Return a folder of ``prototxt/``, such as ``mnist``.

    Raises:
        CaffeKDError: the installation lacks it.
    """
    found = root() / name
    if not found.is_dir():
        raise CaffeKDError(f"the example nets '{name}' are missing from this installation: {found}")
    return found


def packaged(path: str) -> Path | None:
    """Return the example that a path such as ``prototxt/mnist/kd_solver.prototxt`` names.

    None: there is such a file in the current folder, or no such example.
    """
    first, *rest = Path(path).parts or ("",)
    found = _root()
    if found is None or first != FOLDER or ".." in rest or Path(path).exists():
        return None
    example = found.joinpath(*rest)
    return example if example.is_file() else None


def _root() -> Path | None:
    places = (parent / FOLDER for parent in (_PACKAGE, _PACKAGE.parent))
    return next((place for place in places if (place / "README.md").is_file()), None)
