"""The backends of a Data layer: each file of this folder is the one of its name.

Such a file has

- ``open_samples(source, folder_lookup, force_color)``, which returns a SampleSource and raises
  DataError; ``source`` is the path that the prototxt gives,
- ``recognizes(path)``, which returns whether a path looks like one of its own.

``backend: NAME`` in a prototxt names it in capitals; ``DataParameter.DB`` has the names of files
that are not in ``caffe.proto`` too, so that a new backend is one file here and its test.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from ...core.errors import DataError
from ...core.files import name_hint
from ..source import FolderLookup, SampleSource
from ..subset import select


def names() -> list[str]:
    """Return the backends as a prototxt names them."""
    return [module.name.upper() for module in iter_modules(__path__)]


def recognizing(path: Path) -> list[str]:
    """Return the backends of which a path looks like one."""
    return [name for name in names() if _module(name).recognizes(path)]


def open_source(
    data_param: Any, folder_lookup: FolderLookup, force_color: bool | None = None
) -> SampleSource:
    """Open the samples that a ``data_param`` names, by its backend.

    Of these it gives the ones that ``first``, ``count`` and ``leave_out`` select.

    Args:
        data_param: a DataParameter message.
        folder_lookup: finds ``source`` where it is a relative path.
        force_color: encoded images become BGR (True) or grey (False); None leaves them as stored.

    Raises:
        DataError: the samples are missing or damaged, none are selected, or no LevelDB and no
            backend is given.
    """
    if not data_param.source:
        raise DataError(
            "data_param needs a source. Received: none, as in nets of DIGITS, which fills it in "
            'when it trains. Expected: source: "PATH".'
        )
    backend = data_param.DB.Name(data_param.backend)
    path = folder_lookup(data_param.source)
    if not data_param.HasField("backend") and not _module(backend).recognizes(path):
        looks_like = recognizing(path)
        others = " or ".join(f"backend: {name}" for name in names() if name != backend)
        remedy = f"Write {others}, or name a LevelDB"
        if looks_like:
            remedy = f"It looks like {looks_like[0]}; write backend: {looks_like[0]}"
        raise DataError(
            f"data_param has no backend, and the default is {backend}, which this is not. "
            f"{remedy}{name_hint(path)}",
            str(path),
        )
    samples = _module(backend).open_samples(data_param.source, folder_lookup, force_color)
    return select(samples, data_param)


def _module(name: str) -> Any:
    return import_module(f"{__name__}.{name.lower()}")
