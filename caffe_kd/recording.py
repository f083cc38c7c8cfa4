"""Recordings: arrays by name, in an ``.npz`` file."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .errors import DataError
from .files import write_atomically
from .memory import machine_bytes

Arrays = dict[str, np.ndarray]


def read_recording(path: str | Path) -> Arrays:
    """Read an ``.npz`` file of numbers.

    Raises:
        DataError: it is missing, damaged, larger than the memory, or holds other than numbers.
    """
    arrays: Arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            _check_size(archive, path)
            for member in archive.infolist():
                content = archive.read(member)
                name = member.filename.removesuffix(".npy")
                arrays[name] = _array(content, f"{path}: '{name}'")
    except FileNotFoundError:
        raise DataError(f"no such file. Looked from {Path.cwd()}", str(path)) from None
    except (zipfile.BadZipFile, zlib.error, OSError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"is not an .npz file, or is damaged: {error}", str(path)) from None
    return arrays


def _check_size(archive: zipfile.ZipFile, path: str | Path) -> None:
    size = sum(member.file_size for member in archive.infolist())
    memory = machine_bytes()
    if memory is not None and size > memory // 2:
        raise DataError(f"holds {size / 2**30:.1f} GB, more than half of the memory", str(path))


def _array(content: bytes, what: str) -> np.ndarray:
    """Read one array; its header may not ask for more values than the file has."""
    stream = io.BytesIO(content)
    try:
        major, _ = np.lib.format.read_magic(stream)
        reader = (
            np.lib.format.read_array_header_1_0
            if major == 1
            else np.lib.format.read_array_header_2_0
        )
        shape, _, kind = reader(stream)
        size = math.prod(shape) * kind.itemsize
        if kind.kind not in "fiub" or size != len(content) - stream.tell():
            raise DataError(f"{what} holds no numbers, or not as many as it says")
        stream.seek(0)
        return np.asarray(np.load(stream, allow_pickle=False))
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{what} cannot be read: {error}") from None


def write_recording(path: str | Path, values: Mapping[str, np.ndarray]) -> None:
    """Write an ``.npz`` file, atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **dict(values))  # type: ignore[arg-type]  # keywords of savez itself
    write_atomically(path, buffer.getvalue())
