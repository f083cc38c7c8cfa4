"""Where records come from: images with integer labels, by position."""

from __future__ import annotations

import abc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError

FolderLookup = Callable[[str], Path]
"""Turns a path as written in a prototxt into the path of a file or folder."""


class RecordSource(abc.ABC):
    """Records by position: image [C, H, W] and integer label.

    Attributes:
        name: path of the records, for messages.
        encoded: whether reading a record means decompressing a PNG or JPEG.
    """

    name: str
    encoded: bool = False

    @abc.abstractmethod
    def __len__(self) -> int:
        """Return the number of records, at least 1."""

    @abc.abstractmethod
    def read(self, index: int) -> tuple[np.ndarray, int]:
        """Return image [C, H, W], uint8 (0 to 255) or float32 (Datum.float_data), and label.

        Raises:
            DataError: the record is damaged.
        """

    def batch(self, indices: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray]:
        """Return images [N, C, H, W] and labels int64 [N] of some records.

        Raises:
            DataError: a record is damaged, or differs from the first in shape or type.
        """
        if isinstance(indices, slice):
            indices = np.arange(len(self))[indices]
        records = [self.read(int(index)) for index in indices]
        first = records[0][0]
        for index, (image, _) in zip(indices, records, strict=True):
            if image.shape != first.shape or image.dtype != first.dtype:
                raise DataError(
                    "the records of a batch must have one shape and type. "
                    f"Received: {image.dtype} {image.shape} for record {index}, "
                    f"{first.dtype} {first.shape} for record {indices[0]}.",
                    self.name,
                )
        return np.stack([image for image, _ in records]), np.array(
            [label for _, label in records], np.int64
        )


class MemoryRecords(RecordSource):
    """Records in memory: images uint8 or float32 [N, C, H, W], labels int64 [N]."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, name: str) -> None:
        if images.ndim != 4 or labels.shape != images.shape[:1] or not len(labels):
            raise DataError(
                "images [N, C, H, W] and labels [N] of at least one record are needed. "
                f"Received: {images.shape} and {labels.shape}.",
                name,
            )
        self.images = images
        self.labels = labels.astype(np.int64, copy=False)
        self.name = name

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> tuple[np.ndarray, int]:
        """Return image [C, H, W] and label."""
        return self.images[index], int(self.labels[index])

    def batch(self, indices: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray]:
        """Return images [N, C, H, W] and labels [N]; a slice copies nothing."""
        return self.images[indices], self.labels[indices]


def into_memory(source: RecordSource, limit_bytes: int = 2 << 30) -> RecordSource:
    """Read all records at once where that pays: raw, of one shape and type, within the limit.

    Returns:
        The records in memory, else ``source`` itself.

    Raises:
        DataError: a record is damaged.
    """
    if isinstance(source, MemoryRecords) or source.encoded:
        return source
    first, _ = source.read(0)
    if first.nbytes * len(source) > limit_bytes:
        return source
    images = np.empty((len(source), *first.shape), first.dtype)
    labels = np.empty(len(source), np.int64)
    for index in range(len(source)):
        image, labels[index] = source.read(index)
        if image.shape != first.shape or image.dtype != first.dtype:
            return source
        images[index] = image
    return MemoryRecords(images, labels, source.name)


def open_source(
    data_param: Any, folder_lookup: FolderLookup, force_color: bool | None = None
) -> RecordSource:
    """Open the records that a ``data_param`` names, by its backend: LMDB, LEVELDB or IDX.

    Args:
        data_param: a DataParameter message.
        folder_lookup: finds ``source`` where it is a relative path.
        force_color: encoded images become BGR (True) or grey (False); None leaves them as stored.

    Raises:
        DataError: the records are missing or damaged, or no LevelDB and no backend is given.
    """
    if not data_param.source:
        raise DataError('data_param needs a source. Received: none. Expected: source: "PATH".')
    if data_param.backend == data_param.IDX:
        from .idx import open_idx

        return open_idx(data_param.source, folder_lookup)
    path = folder_lookup(data_param.source)
    if data_param.backend == data_param.LMDB:
        from .lmdb import LmdbRecords

        return LmdbRecords(path, force_color)
    if not data_param.HasField("backend") and not (path / "CURRENT").is_file():
        raise _no_backend(path)
    from .leveldb import LevelDbRecords

    return LevelDbRecords(path, force_color)


def _no_backend(path: Path) -> DataError:
    """Return the error for what is no LevelDB and has no backend, with the line to write."""
    if (path / "data.mdb").exists() or path.name == "data.mdb":
        remedy = "The folder is an LMDB; write backend: LMDB"
    elif "idx3" in path.name:
        remedy = "The file is named like an IDX file; write backend: IDX"
    else:
        remedy = "Write backend: LMDB or backend: IDX, or name a LevelDB"
    return DataError(
        f"data_param has no backend, and the default is LEVELDB, which this is not. {remedy}",
        str(path),
    )
