"""Rows of HDF5 files, the samples of HDF5Data."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.errors import DataError, did_you_mean
from ..core.files import find, name_hint, read_bytes
from ..proto.hdf5_sizes import dataset_problem
from ..proto.wire import HDF5_MAGIC

_MOST_LIST_BYTES = 16 << 20
_MOST_VALUES = 2**31 - 1  # Caffe counts the values of a blob in an int
_MOST_KEPT_ITEM = 4  # bytes of a value that is kept as stored; longer ones are converted to float32


class HDF5Rows:
    """The rows of the HDF5 files that a text file lists, one file in memory at a time.

    Each file has a dataset for each top, named like it, all with the same number of rows. Names in
    the list are separated by whitespace and relative to the working directory, then to the list.

    Attributes:
        name: path of the list, for messages.
        row_shapes: the shape of a row, for each top.
        file_count: how many files there are.

    Raises:
        DataError: a file or dataset is missing or damaged, or they do not fit each other.
        ParseError: the list cannot be read.

    Source:
        Caffe's HDF5Data. Links to other files are refused: a data file should not need any.
    """

    def __init__(self, source: Path, tops: Sequence[str]) -> None:
        self.name = str(source)
        self._tops = list(tops)
        listed = _names_in(source)
        if not listed:
            raise DataError("the list names no HDF5 file", self.name)
        self._files = [find(file, beside=source) for file in listed]
        self.file_count = len(self._files)
        shapes = [self._shapes(file) for file in self._files]
        self.row_shapes = [shape[1:] for shape in shapes[0]]
        for file, others in zip(self._files, shapes, strict=True):
            self._compare(file, [shape[1:] for shape in others])
        self._starts = np.cumsum([0] + [others[0][0] for others in shapes])
        self._loaded: tuple[int, list[np.ndarray]] = (-1, [])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def first_count(self) -> int:
        """How many rows the first file has."""
        return int(self._starts[1])

    def order(self, generator: torch.Generator | None = None) -> np.ndarray:
        """Return the row numbers of one pass, int64, file after file.

        With a generator the files are shuffled, and the rows within each file.
        """
        if generator is None:
            return np.arange(len(self))
        files = torch.randperm(self.file_count, generator=generator).tolist()
        return np.concatenate([self._shuffled(file, generator) for file in files])

    def _shuffled(self, file: int, generator: torch.Generator) -> np.ndarray:
        start, end = self._starts[file : file + 2]
        return start + torch.randperm(int(end - start), generator=generator).numpy()

    def read(self, indices: np.ndarray) -> list[np.ndarray]:
        """Return float32 [N, ...] for each top: the rows with these numbers, in this order.

        Raises:
            DataError: a file is damaged.
        """
        indices = np.asarray(indices)
        tops = [np.empty((len(indices), *shape), np.float32) for shape in self.row_shapes]
        files = np.searchsorted(self._starts, indices, side="right") - 1
        for file in dict.fromkeys(files.tolist()):  # in order of appearance
            wanted = files == file
            for top, rows in zip(tops, self._load(file), strict=True):
                top[wanted] = rows[indices[wanted] - self._starts[file]]
        return tops

    def in_memory(self, top: str) -> np.ndarray:
        """Return the values of the file that is in memory; none at the beginning."""
        loaded = self._loaded[1]
        return loaded[self._tops.index(top)] if loaded else np.empty(0, np.float32)

    def _load(self, file: int) -> list[np.ndarray]:
        if self._loaded[0] != file:
            self._loaded = (-1, [])  # frees the last file before the next is read
            with _Opened(self._files[file]) as opened:
                rows = [_values(opened.dataset(top)) for top in self._tops]
            self._loaded = (file, rows)
        return self._loaded[1]

    def _shapes(self, file: Path) -> list[tuple[int, ...]]:
        """Return the shapes of a file's datasets, one for each top."""
        with _Opened(file) as opened:
            shapes = [opened.dataset(top).shape for top in self._tops]
        rows = {top: shape[0] for top, shape in zip(self._tops, shapes, strict=True)}
        if len(set(rows.values())) > 1 or not min(rows.values()):
            raise DataError(
                "all datasets must have the same number of rows, at least 1. Received: "
                + ", ".join(f"'{top}' {count}" for top, count in rows.items()),
                str(file),
            )
        return shapes

    def _compare(self, file: Path, row_shapes: list[tuple[int, ...]]) -> None:
        for top, shape, first in zip(self._tops, row_shapes, self.row_shapes, strict=True):
            if shape != first:
                raise DataError(
                    f"the rows of dataset '{top}' must have the shape they have in the first "
                    f"file. Received: {shape}. Expected: {first}, as in {self._files[0]}.",
                    str(file),
                )


def _names_in(source: Path) -> list[str]:
    """Return the names that a list holds."""
    if source.is_file():
        with source.open("rb") as file:
            if file.read(len(HDF5_MAGIC)) == HDF5_MAGIC:
                raise DataError(
                    "is an HDF5 file; source must be a text file that lists such files",
                    str(source),
                )
    return read_bytes(source, _MOST_LIST_BYTES).decode(errors="replace").split()


def _values(dataset: Any) -> np.ndarray:
    """Read a dataset; values of few bytes become float32 only batch by batch."""
    is_kept = dataset.dtype.itemsize <= _MOST_KEPT_ITEM
    return np.asarray((dataset if is_kept else dataset.astype(np.float32))[...])


class _Opened:
    """An open HDF5 file; errors of the library become DataErrors."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._file_bytes = 0
        self._bytes_taken = 0

    def __enter__(self) -> _Opened:
        import h5py

        if not Path(self._path).is_file():
            slip = name_hint(self._path)
            raise DataError(f"no such file. Looked from {Path.cwd()}{slip}", self._path)
        self._file_bytes = Path(self._path).stat().st_size
        try:
            self._file = h5py.File(self._path, "r")
        except OSError as error:
            raise self._damaged(error) from error
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._file.close()
        if isinstance(error, (OSError, RuntimeError, KeyError, ValueError, TypeError, zlib.error)):
            raise self._damaged(error) from error

    def _damaged(self, error: BaseException) -> DataError:
        return DataError(
            f"not an HDF5 file, or truncated or damaged. Received: {error}", self._path
        )

    def dataset(self, top: str) -> Any:
        """Return the dataset of a top, after checking it."""
        import h5py

        group = self._file
        *folders, last = [part for part in top.split("/") if part] or [top]
        for part in [*folders, last]:
            link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
            if link is None:
                known = [name for name in self._file if isinstance(name, str)]
                raise DataError(
                    f"no dataset '{top}', as the top is named. The file has "
                    f"{', '.join(known) or 'none'}." + did_you_mean(top, known),
                    self._path,
                )
            if not isinstance(link, h5py.HardLink):
                raise DataError(
                    f"dataset '{top}' is a link, and links are not followed",
                    self._path,
                )
            group = group[part]
        if not isinstance(group, h5py.Dataset):
            raise DataError(f"'{top}' is a group, where a dataset was expected", self._path)
        self._check(top, group)
        return group

    def _check(self, top: str, dataset: Any) -> None:
        """Raise DataError for datasets in other files, of non-numbers, or too large for memory."""
        if dataset.is_virtual or dataset.external:
            raise DataError(f"dataset '{top}' lies in other files, which are not read", self._path)
        if dataset.dtype.kind not in "fiu" or not dataset.shape:
            raise DataError(
                f"dataset '{top}' must hold rows of floating-point numbers or integers. "
                f"Received: {dataset.dtype} {dataset.shape}.",
                self._path,
            )
        values = math.prod(dataset.shape)
        if values > _MOST_VALUES:
            raise DataError(
                f"dataset '{top}' states an absurd size. Received: {dataset.shape}. Expected: "
                f"at most {_MOST_VALUES} values.",
                self._path,
            )
        kept = min(dataset.dtype.itemsize, _MOST_KEPT_ITEM)
        problem = dataset_problem(dataset, kept, self._file_bytes, self._bytes_taken)
        if problem:
            raise DataError(f"dataset '{top}' of shape {dataset.shape}: {problem}", self._path)
        self._bytes_taken += values * kept
