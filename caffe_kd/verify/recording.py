"""Recordings: arrays by name, in an ``.npz`` file."""

from __future__ import annotations

import io
import math
import mmap
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from ..core.errors import DataError, ParseError
from ..core.files import reading, write_atomically
from ..core.memory import growth_problem

Arrays = dict[str, np.ndarray]

_MOST_ARRAYS = 10_000
_ENTRY = b"PK\x01\x02"  # begins each member's entry in an archive's list
_CHUNK = 1 << 20
# What numpy's header readers raise, which evaluate headers as Python literals.
_BAD_HEADER = (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError)


def read_recording(path: str | Path) -> Arrays:
    """Read an ``.npz`` file of numbers.

    Raises:
        DataError: it is missing, damaged, holds other than numbers, or far more of them than a
            file of its length should.
    """
    try:
        with reading(path) as size, open(path, "rb") as file:
            _check_members(file, size, path)
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                problem = growth_problem(sum(member.file_size for member in members), size)
                if problem:
                    raise DataError(f"{problem}. numpy.savez writes it uncompressed", str(path))
                return dict(_member(archive, member, path) for member in members)
    except ParseError as error:
        raise DataError(error.message, error.where) from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"is not an .npz file, or is damaged: {error}", str(path)) from None


def _check_members(file: BinaryIO, size: int, path: str | Path) -> None:
    """Raise DataError for an archive of too many members, before their list fills the memory."""
    if not size:
        raise DataError("is not an .npz file: it is empty", str(path))
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = count = 0
        while (at := content.find(_ENTRY, at) + 1) and count <= _MOST_ARRAYS:
            count += 1
    if count > _MOST_ARRAYS:
        raise DataError(f"holds more than {_MOST_ARRAYS} arrays", str(path))


def _member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: str | Path
) -> tuple[str, np.ndarray]:
    """Read one array; its header may not ask for more values than the file has."""
    name = member.filename.removesuffix(".npy")
    what = f"{path}: '{name}'"
    try:
        with archive.open(member) as stream:
            # numpy's own header readers, which accept a few KB of literals
            major, _ = np.lib.format.read_magic(stream)
            reader = (
                np.lib.format.read_array_header_1_0
                if major == 1
                else np.lib.format.read_array_header_2_0
            )
            shape, is_fortran, kind = reader(stream)
            size = math.prod(shape) * kind.itemsize
            if kind.kind not in "fiub" or size != member.file_size - stream.tell():
                raise DataError(f"{what} holds no numbers, or not as many as it states")
            values = np.empty(size, np.uint8)
            filled = 0
            while filled < size:
                chunk = stream.read(min(_CHUNK, size - filled))
                if not chunk:
                    raise DataError(f"{what} ends after {filled} of {size} bytes")
                values[filled : filled + len(chunk)] = np.frombuffer(chunk, np.uint8)
                filled += len(chunk)
            stream.read(1)  # at the end the checksum is compared
    except (*_BAD_HEADER, OSError) as error:
        raise DataError(f"{what} cannot be read: {error}") from None
    order: Literal["F", "C"] = "F" if is_fortran else "C"
    return name, values.view(kind).reshape(shape, order=order)


def write_recording(path: str | Path, values: Mapping[str, np.ndarray]) -> None:
    """Write an ``.npz`` file, atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **dict(values))  # type: ignore[arg-type]  # keywords of savez itself
    if growth_problem(sum(value.nbytes for value in values.values()), buffer.tell()):
        buffer = io.BytesIO()  # few distinct values: compressed, it would be refused on reading
        np.savez(buffer, **dict(values))  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())
