"""The IDX format of the MNIST files, plain or gzip-compressed.

An IDX file is a big-endian header, then the values: two zero bytes, a type code (8: unsigned
bytes), the number of dimensions, and each dimension as four bytes. The magic number of an images
file is therefore 0x00000803, that of a labels file 0x00000801.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import numpy as np

from ...core.errors import DataError
from ...core.files import name_hint, write_atomically
from ...core.memory import growth_problem
from ..source import FolderLookup, MemorySamples
from ..stand_in import is_stand_in

IMAGES, LABELS = 0x00000803, 0x00000801
_KINDS = {IMAGES: "images", LABELS: "labels"}
_LIMIT_BYTES = 2 << 30  # far above any MNIST-like set, far below a machine's memory
_CHUNK = 1 << 20


def open_idx(source: str, folder_lookup: FolderLookup) -> MemorySamples:
    """Read the images file ``source`` and the labels file that belongs to it.

    The labels file has the images file's name with ``images-idx3`` replaced by ``labels-idx1``.
    Each may exist with or without ``.gz``.

    Raises:
        DataError: a file is missing or damaged, or the files differ in their number of samples.
    """
    images_path = locate(source, folder_lookup)
    labels_name, found = re.subn(r"images([-.])idx3", r"labels\1idx1", images_path.name)
    if not found:
        raise DataError(
            "cannot derive the labels file from this name. "
            f"Received: '{images_path.name}'. Expected: a name with 'images-idx3'.",
            str(images_path),
        )
    labels_path = locate(str(images_path.with_name(labels_name)), Path)
    images, labels = read_pair(images_path, labels_path)
    return MemorySamples(images[:, None], labels, str(images_path))


def open_samples(
    source: str, folder_lookup: FolderLookup, force_color: bool | None
) -> MemorySamples:
    """Open the files as a backend; they hold no encoded images, so that no colour is forced."""
    return open_idx(source, folder_lookup)


def recognizes(path: Path) -> bool:
    """Return whether a path is named like an IDX file of images."""
    return "idx3" in path.name


def locate(source: str, folder_lookup: FolderLookup = Path) -> Path:
    """Return the path of ``source``, with or without ``.gz``, whichever exists.

    If both exist, a stand-in for MNIST comes second.

    Raises:
        DataError: neither exists.
    """
    other = source[:-3] if source.endswith(".gz") else source + ".gz"
    paths = [path for name in (source, other) if (path := folder_lookup(name)).is_file()]
    if paths:
        return min(paths, key=is_stand_in)
    raise DataError(
        f"no such file, nor '{Path(other).name}'"
        + (name_hint(source) or "; get the digits with caffe_kd get_mnist"),
        str(folder_lookup(source)),
    )


def read_pair(images_path: Path, labels_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 [N, H, W] and labels uint8 [N] of two files that belong together.

    Each may exist with or without ``.gz``.

    Raises:
        DataError: a file is missing or damaged, or the files differ in their number of samples.
    """
    images_path, labels_path = (locate(str(p)) for p in (images_path, labels_path))
    with _opened(images_path, IMAGES) as images, _opened(labels_path, LABELS) as labels:
        if images.shape[0] != labels.shape[0]:  # before either is read into memory
            raise DataError(
                f"images and labels differ in number. Received: {images.shape[0]} images, "
                f"{labels.shape[0]} labels in {labels_path}. Expected: one label for each image.",
                str(images_path),
            )
    return read_idx(images_path, IMAGES), read_idx(labels_path, LABELS)


def read_idx(path: Path, magic: int) -> np.ndarray:
    """Return the unsigned bytes of an IDX file: images [N, H, W] or labels [N].

    Sizes are checked against the file before memory is allocated.

    Args:
        path: a plain or gzip-compressed file, recognised by its first bytes, not its name.
        magic: ``IMAGES`` or ``LABELS``.

    Raises:
        DataError: the file is missing, truncated or damaged, or is another kind of file.
    """
    with _opened(path, magic) as idx:
        return _values(idx, path)


class _Idx(NamedTuple):
    """An open IDX file, read up to the end of its header."""

    file: BinaryIO
    shape: tuple[int, ...]
    is_packed: bool


@contextmanager
def _opened(path: Path, magic: int) -> Iterator[_Idx]:
    """Open an IDX file and read its header; errors until it is closed name the file."""
    try:
        if path.exists() and not path.is_file():  # a pipe might block
            raise DataError("cannot be read: it is not a regular file", str(path))
        with path.open("rb") as file:
            is_packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if not is_packed:
                yield _Idx(file, _read_header(file, path, magic), is_packed)
                return
            with gzip.open(file) as unpacked:
                stream = cast(BinaryIO, unpacked)
                yield _Idx(stream, _read_header(stream, path, magic), is_packed)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"the gzip file is truncated or damaged ({error}). Fetch it again, for MNIST with "
            "caffe_kd get_mnist",
            str(path),
        ) from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", str(path)) from error


def _values(idx: _Idx, path: Path) -> np.ndarray:
    """Read the values after a header, whose sizes are checked first."""
    shape, file_bytes = idx.shape, path.stat().st_size
    expected = math.prod(shape)
    header = 4 + 4 * len(shape)
    if not idx.is_packed and file_bytes != header + expected:
        raise _wrong_size(path, shape, file_bytes - header)
    if expected > _LIMIT_BYTES:
        raise DataError(
            f"the header states an absurd size. Received: {_product(shape)} bytes. Expected: "
            f"at most {_LIMIT_BYTES}.",
            str(path),
        )
    if problem := growth_problem(expected, file_bytes):
        raise DataError(f"{problem}. decompress the file with 'gunzip'", str(path))
    values = np.empty(expected, np.uint8)
    filled = 0
    while filled < expected:
        chunk = idx.file.read(min(_CHUNK, expected - filled))
        if not chunk:
            raise _wrong_size(path, shape, filled)
        values[filled : filled + len(chunk)] = np.frombuffer(chunk, np.uint8)
        filled += len(chunk)
    if idx.file.read(1):  # also makes gzip compare its checksum
        raise _wrong_size(path, shape, filled + 1, "or more ")
    return values.reshape(shape)


def _read_header(file: BinaryIO, path: Path, magic: int) -> tuple[int, ...]:
    """Return the dimensions that the header states."""
    kind = _KINDS[magic]
    dimensions = magic & 0xFF
    start = file.read(4)
    received = int.from_bytes(start, "big")
    if len(start) == 4 and received != magic:
        other = f", an IDX {_KINDS[received]} file" if received in _KINDS else ""
        raise DataError(
            f"wrong magic number. Received: 0x{received:08x}{other}. "
            f"Expected: 0x{magic:08x}, an IDX {kind} file.",
            str(path),
        )
    rest = file.read(4 * dimensions)
    if len(start) + len(rest) < 4 + 4 * dimensions:
        raise DataError(
            f"the header is truncated. Received: {len(start) + len(rest)} bytes. "
            f"Expected: {4 + 4 * dimensions} bytes of header in an IDX {kind} file.",
            str(path),
        )
    shape = struct.unpack(f">{dimensions}I", rest)
    if not math.prod(shape):
        raise DataError(
            f"the file holds no {kind}. Received: {_product(shape)}. Expected: all at least 1.",
            str(path),
        )
    return shape


def _wrong_size(path: Path, shape: tuple[int, ...], received: int, more: str = "") -> DataError:
    state = "longer than its header says" if received > math.prod(shape) else "truncated"
    return DataError(
        f"the file is {state}. Received: {received} {more}bytes after the header. "
        f"Expected: {_product(shape)}.",
        str(path),
    )


def _product(shape: tuple[int, ...]) -> str:
    """Return ``60000 x 28 x 28 = 47040000``."""
    factors = " x ".join(map(str, shape))
    return f"{factors} = {math.prod(shape)}" if len(shape) > 1 else factors


def write_idx(path: Path, values: np.ndarray) -> None:
    """Write images uint8 [N, H, W] or labels uint8 [N] as a plain IDX file, atomically.

    Raises:
        DataError: the values are of another type.
        CaffeKDError: the file cannot be written.
    """
    if values.dtype != np.uint8 or values.ndim not in (1, 3):
        raise DataError(
            f"IDX takes uint8 [N] or [N, H, W]. Received: {values.dtype} {values.shape}.",
            str(path),
        )
    header = struct.pack(f">I{values.ndim}I", 0x800 | values.ndim, *values.shape)
    write_atomically(path, [header, values.tobytes()])
