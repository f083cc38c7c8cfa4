"""The fields of a net that name files, and how they change when the net's file moves."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core.files import find
from . import caffe_pb2 as pb

_FIELDS = {"source", "mean_file", "root_folder", "model"}


def map_files(net: Any, change: Callable[[str], str]) -> Any:
    """Return a copy of a net with the names of its files changed."""
    copy = pb.NetParameter()
    copy.CopyFrom(net)
    for layer in copy.layer:
        for field, value in layer.ListFields():
            if field.message_type is None or field.is_repeated:
                continue
            for inner, path in value.ListFields():
                if inner.name in _FIELDS and isinstance(path, str):
                    setattr(value, inner.name, change(path))
    return copy


def full_path(path: str, beside: str | Path | None) -> str:
    """Return a file's full path; an IDX file may be there as .gz alone."""
    for ending in ("", ".gz"):
        found = find(path + ending, beside)
        if os.path.exists(found):
            return found.resolve().as_posix().removesuffix(ending)
    return path


def with_full_paths(net: Any, file: str | Path | None) -> Any:
    """Return a copy of a net that names its files from anywhere."""
    return map_files(net, lambda path: full_path(path, file))


def moved(net: Any, file: str | Path | None, to: str | Path) -> Any:
    """Return a net for another folder: files found only beside its old one get full paths."""
    if file is None or Path(file).resolve().parent == Path(to).resolve().parent:
        return net

    def change(path: str) -> str:
        is_here = any(os.path.exists(path + ending) for ending in ("", ".gz"))
        return path if is_here else full_path(path, file)

    return map_files(net, change)
