"""Reading files with a bound and writing them so that a reader never sees half a file."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import CaffeKDError, ParseError


@contextmanager
def reading(path: str | Path) -> Iterator[int]:
    """Give the size of an ordinary file, and name the file in what goes wrong in reading it.

    Raises:
        ParseError: the file is missing, a folder or device, or cannot be read.
    """
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise ParseError("is a folder, where a file was expected", str(path))
        if not stat.S_ISREG(status.st_mode):  # a pipe would wait for its writer, or never end
            raise ParseError("is not an ordinary file", str(path))
        yield status.st_size
    except FileNotFoundError:
        raise ParseError(f"no such file. Looked from {Path.cwd()}", str(path)) from None
    except OSError as error:
        raise ParseError(f"cannot be read: {error.strerror}", str(path)) from None


def read_bytes(path: str | Path, max_bytes: int) -> bytes:
    """Return a file's bytes.

    Raises:
        ParseError: as ``reading``, or the file is larger than ``max_bytes``.
    """
    with reading(path) as size:
        if size > max_bytes:
            raise ParseError(f"is {size} bytes long, more than the {max_bytes} allowed", str(path))
        return Path(path).read_bytes()


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that takes its place when the block succeeds.

    A reader sees the old file or the new one, never a part; if the block fails, the old file stays
    and the temporary one is removed. Where ``path`` is a link, the file it leads to is replaced.

    Raises:
        CaffeKDError: the folder cannot be written, the disk is full, or ``path`` is a folder or a
            device.
    """
    named, path = path, Path(os.path.realpath(path))
    temporary: Path | None = None
    try:
        if path.exists() and not path.is_file():  # /dev/null would be a file ever after
            what = "a folder" if path.is_dir() else "a device or pipe"
            raise CaffeKDError(f"cannot be written: it is {what}", str(named))
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files private; ours are ordinary
        os.replace(temporary, path)
    except CaffeKDError as error:
        if temporary is not None and error.where == str(temporary):  # nobody knows that name
            raise type(error)(error.message, str(named)) from None
        raise
    except OSError as error:
        reason = error.strerror or error
        raise CaffeKDError(f"cannot be written: {reason}", str(named)) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_atomically(path: str | Path, content: bytes | Iterable[bytes]) -> None:
    """Write a file so that at any moment either the old or the new one is there, whole."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        for chunk in [content] if isinstance(content, bytes) else content:
            file.write(chunk)


def find(path: str, beside: str | Path | None) -> Path:
    """Resolve a path of a prototxt: from the working directory, then beside the file naming it."""
    # Not Path.exists: it fails on a name that is too long.
    if beside is not None and not os.path.exists(path):
        neighbour = Path(beside).parent / path
        if os.path.exists(neighbour):
            return neighbour
    return Path(path)
