"""Writes LMDBs for the data layers whose samples BVLC Caffe cannot read as they are."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..core.errors import DataError
from ..core.files import find
from ..data.backends import open_source
from ..data.backends.lmdb import LmdbSamples, write_lmdb
from ..data.source import SampleSource
from ..proto import caffe_pb2 as pb

# Fields of data_param that only this package has.
_CHOICE = ("first", "count", "leave_out")
_DIGITS_OF_NAME = 12


def needs_database(layer: Any) -> bool:
    """Return whether a layer's samples are in a format that BVLC Caffe does not read."""
    if layer.type != "Data":
        return False
    given = {field.name for field, _ in layer.data_param.ListFields()}
    param = pb.DataParameter
    is_read = layer.data_param.backend in (param.LEVELDB, param.LMDB)
    return not is_read or not given.isdisjoint(_CHOICE)


def find_for(layer: Any, path: str) -> Path:
    """Return the path of a layer's file: relative to the working directory, or to its prototxt."""
    file, _, line = layer.source_line.rpartition(":")
    return find(path, file if line.isdecimal() else None)


class Databases:
    """Writes LMDBs for data layers into a folder, one for each set of samples.

    A database is named by its source and a checksum of its samples: an existing one with the same
    samples is reused.

    Args:
        folder: where to write them.
        log: called with a line for each.
    """

    def __init__(self, folder: Path, log: Callable[[str], None]) -> None:
        self._folder = folder
        self._log = log
        self._paths: dict[bytes, Path] = {}

    def use(self, layer: Any) -> None:
        """Write a data layer's samples unless they exist, and make the layer read them.

        Raises:
            DataError: the samples cannot be read, or the database cannot be written.
        """
        param = pb.DataParameter(source=layer.data_param.source, backend=layer.data_param.backend)
        for name in _CHOICE:
            if name == "leave_out":
                param.leave_out.extend(layer.data_param.leave_out)
            elif layer.data_param.HasField(name):
                setattr(param, name, getattr(layer.data_param, name))
        key = param.SerializeToString(deterministic=True)
        if key not in self._paths:
            self._paths[key] = self._made(layer, param)
        layer.data_param.source = str(self._paths[key])
        layer.data_param.backend = pb.DataParameter.LMDB
        for name in _CHOICE:
            layer.data_param.ClearField(name)

    def _made(self, layer: Any, param: Any) -> Path:
        try:
            source = open_source(param, lambda path: find_for(layer, path))
            digest = _checksum(source)
            name = f"{_stem(source.name)}-{digest[:_DIGITS_OF_NAME]}"
            path = self._folder / name
            if _holds(path, len(source), digest):
                self._log(f"{path}: {len(source)} samples, exists already")
            else:
                write_lmdb(path, _progress(_entries(source), len(source), name), overwrite=True)
                self._log(f"wrote {path}: {len(source)} samples")
        except DataError as error:
            raise DataError(
                f"layer '{layer.name}' ({layer.type}): {error}", layer.source_line or None
            ) from None
        return path


def _stem(source: str) -> str:
    """Return the name of a source without its suffix."""
    name = re.sub(r"[-.]idx3.*|\.gz$|\.mdb$|_(lmdb|leveldb)$", "", os.path.basename(source))
    return name or "samples"


def _entries(source: SampleSource) -> Iterator[tuple[bytes, bytes]]:
    for index in range(len(source)):
        yield b"%08d" % index, source.datum(index)


def _checksum(source: SampleSource) -> str:
    """Return the checksum of all samples in their order."""
    sha = hashlib.sha256()
    for index in range(len(source)):
        datum = source.datum(index)
        sha.update(b"%d " % len(datum))
        sha.update(datum)
    return sha.hexdigest()


def _holds(path: Path, count: int, digest: str) -> bool:
    """Return whether the folder is an LMDB with exactly these samples."""
    if not path.exists():
        return False
    try:
        found = LmdbSamples(path)
        return len(found) == count and _checksum(found) == digest
    except DataError:
        return False  # truncated or damaged: it is written again


def _progress(
    entries: Iterator[tuple[bytes, bytes]], count: int, name: str
) -> Iterator[tuple[bytes, bytes]]:
    """Show the progress of writing on a terminal."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    with tqdm(total=count, desc=name, disable=None, file=sys.stderr, leave=False) as bar:
        for entry in entries:
            yield entry
            bar.update()
