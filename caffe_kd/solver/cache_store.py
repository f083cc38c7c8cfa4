"""Stores the cached outputs of frozen layers in memory or on disk.

On disk each fingerprint has a folder of its own, so that runs with different teachers do not mix
their values, and each chunk has a checksum: an incomplete chunk, as after a power cut, is computed
again. The files are read and written, not memory-mapped: mapped files would end the process with a
bus error if the disk is full or a file is truncated.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
import weakref
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..core.errors import CaffeKDError
from ..core.files import OpenFile, allocate, lock, write_atomically

Shapes = Mapping[str, tuple[int, ...]]
Rows = slice | np.ndarray

_MARK = 1  # of a stored chunk
_ABOUT, _LOCK = "fingerprint.json", "lock"


class Store(Protocol):
    """Values of blobs for all samples, stored chunk by chunk."""

    def has(self, chunk: int) -> bool:
        """Return whether a chunk is stored."""

    def put(self, chunk: int, values: Mapping[str, Tensor]) -> None:
        """Store a chunk's values, which are on the CPU."""

    def get(self, name: str, rows: Rows) -> Tensor:
        """Return a blob's values for some samples, whose chunks are stored."""


class MemoryStore:
    """Values in memory.

    Args:
        shapes: of each blob for all samples.
        chunk: the samples in a chunk.
    """

    def __init__(self, shapes: Shapes, chunk: int) -> None:
        self._values = {name: torch.empty(shape) for name, shape in shapes.items()}
        self._chunk = chunk
        self._stored: set[int] = set()

    def has(self, chunk: int) -> bool:
        """Return whether a chunk is stored."""
        return chunk in self._stored

    def put(self, chunk: int, values: Mapping[str, Tensor]) -> None:
        """Store a chunk's values."""
        for name, value in values.items():
            start = chunk * self._chunk
            self._values[name][start : start + len(value)].copy_(value)
        self._stored.add(chunk)

    def get(self, name: str, rows: Rows) -> Tensor:
        """Return a blob's values for some samples."""
        return self._values[name][rows if isinstance(rows, slice) else torch.from_numpy(rows)]


class DiskStore:
    """Values in ``folder/<fingerprint>``, for this run and others with the same fingerprint.

    Disk space is allocated at once. Folders of other fingerprints that no run uses are removed.

    Args:
        folder: of the caches of one snapshot_prefix.
        fingerprint: what the values depend on, by name.
        shapes: of each blob for all samples.
        chunk: the samples in a chunk.
        notify: logs a line.

    Raises:
        CaffeKDError: the folder cannot be written, or the disk is full.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: Mapping[str, str],
        shapes: Shapes,
        chunk: int,
        notify: Callable[[str], None],
    ) -> None:
        self._chunk = chunk
        self._shapes = {name: shape[1:] for name, shape in shapes.items()}
        self._count = next(iter(shapes.values()))[0]
        self._notify = notify
        self._damaged = False
        self._checked: set[int] = set()  # the chunks whose checksums were compared in this run
        about = json.dumps(dict(fingerprint), indent=1).encode()
        self._own = own = folder / f"{zlib.crc32(about):08x}"
        sizes = {own / f"{i}.f32": 4 * math.prod(s) for i, s in enumerate(shapes.values())}
        sizes[own / "checksums"] = 8 * math.ceil(self._count / chunk)
        try:
            weakref.finalize(self, os.close, _in_use(own))
            _remove_others(own, fingerprint, notify)
            write_atomically(own / _ABOUT, about)
            for path, size in sizes.items():
                allocate(path, size)
        except OSError as error:
            raise CaffeKDError(
                f"the teacher cache cannot be written: {error.strerror}. It needs "
                f"{sum(sizes.values()) / 2**20:.1f} MB of disk space; -teacher_cache memory or off "
                "needs none",
                str(folder),
            ) from None
        *files, self._checksums = [OpenFile(path, writable=True) for path in sizes]
        self._files = dict(zip(shapes, files, strict=True))

    def has(self, chunk: int) -> bool:
        """Return whether a chunk is stored and undamaged."""
        if chunk in self._checked:
            return True
        mark, checksum = np.frombuffer(self._checksums.read(8 * chunk, 8), np.uint32)
        if mark != _MARK:
            return False
        start = chunk * self._chunk
        count = min(self._count - start, self._chunk)
        if _checksum(self._rows(name, start, count) for name in self._files) != checksum:
            if not self._damaged:
                self._notify(
                    f"The teacher cache in {self._own} is damaged: bad chunks are computed again"
                )
            self._damaged = True
            return False
        self._checked.add(chunk)
        return True

    def put(self, chunk: int, values: Mapping[str, Tensor]) -> None:
        """Store a chunk's values, and then its checksum."""
        content = {name: values[name].contiguous().numpy().tobytes() for name in self._files}
        for name, file in self._files.items():
            file.write(chunk * self._chunk * self._row_bytes(name), content[name])
        about = np.array([_MARK, _checksum(content.values())], np.uint32)
        self._checksums.write(8 * chunk, about.tobytes())
        self._checked.add(chunk)

    def get(self, name: str, rows: Rows) -> Tensor:
        """Return a blob's values for some samples."""
        if isinstance(rows, slice):
            count = rows.stop - rows.start
            content = self._rows(name, rows.start, count)
        else:
            count = len(rows)
            content = b"".join(self._rows(name, row, 1) for row in rows.tolist())
        values = np.frombuffer(bytearray(content), np.float32)  # writable, as torch requires
        return torch.from_numpy(values.reshape(count, *self._shapes[name]))

    def _row_bytes(self, name: str) -> int:
        return 4 * math.prod(self._shapes[name])

    def _rows(self, name: str, start: int, count: int) -> bytes:
        """Return the values of consecutive samples."""
        size = self._row_bytes(name)
        return self._files[name].read(start * size, count * size)


def _in_use(folder: Path) -> int:
    """Create a folder, in use as long as the returned descriptor is open."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another run has just removed the folder
            handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            if lock(handle, shared=True) is not False and (folder / _LOCK).exists():
                return handle
            os.close(handle)
        time.sleep(0.01)


def _checksum(parts: Iterable[bytes]) -> int:
    value = 0
    for part in parts:
        value = zlib.crc32(part, value)
    return value


def _remove_others(
    own: Path, fingerprint: Mapping[str, str], notify: Callable[[str], None]
) -> None:
    """Remove the caches of other fingerprints that no run has open."""
    for other in own.parent.iterdir():
        if other == own or not (other / _LOCK).is_file():
            continue
        handle = os.open(other / _LOCK, os.O_RDWR)
        try:
            if lock(handle):
                before = _read_about(other / _ABOUT)
                differing = [k for k, v in fingerprint.items() if before.get(k) != v]
                shutil.rmtree(other)
                notify(
                    f"The teacher cache in {own.parent} was made with another "
                    f"{' and '.join(differing)}: computed again"
                )
        finally:
            os.close(handle)


def _read_about(path: Path) -> dict[str, str]:
    try:
        about = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}
