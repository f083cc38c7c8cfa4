"""Reading files with a bound and writing them so that a reader never sees half a file."""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import stat
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import CaffeKDError, MissingFile, ParseError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_UNFINISHED = ".unfinished"
# What a Windows path turns into in a prototxt: "D:\train" has a tab.
_ESCAPES = (
    ("\t", r"\t", "a tab"),
    ("\n", r"\n", "a line break"),
    ("\r", r"\r", "a carriage return"),
    ("\a", r"\a", "a bell"),
    ("\b", r"\b", "a backspace"),
    ("\f", r"\f", "a form feed"),
    ("\v", r"\v", "a vertical tab"),
    ("\0", r"\0", "a NUL character"),
)
_LEFTOVER = re.compile(r"\..+\.[a-z0-9_]{8}" + re.escape(_UNFINISHED))
_tidied: set[Path] = set()  # the folders that were looked through


def check_name(path: str | Path) -> None:
    """Raise ParseError for a name that no file can have; the system would raise ValueError.

    Raises:
        ParseError: it holds a NUL character.
    """
    if "\0" in str(path):
        raise ParseError("a file's name cannot hold a NUL character", repr(str(path))[1:-1])


def name_hint(path: str | Path) -> str:
    """Return what seems wrong with the name of a missing file, for the end of a message."""
    name = str(path)
    for letter, escape, called in _ESCAPES:
        if letter in name:
            return (
                f'. The name holds {called}: in a prototxt "{escape}" stands for it. Between '
                'folders write "/", or "\\\\" for one backslash'
            )
    if "\\" in name and os.sep != "\\":
        return '. A backslash does not separate folders here: write "/"'
    return ""


@contextmanager
def reading(path: str | Path) -> Iterator[int]:
    """Yield the size of a regular file; errors while reading it name the file.

    Raises:
        ParseError: the file is missing, a folder or device, or cannot be read.
    """
    check_name(path)
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise ParseError("is a folder, where a file was expected", str(path))
        if not stat.S_ISREG(status.st_mode):  # a pipe would wait for its writer, or never end
            raise ParseError("is not a regular file", str(path))
        yield status.st_size
    except FileNotFoundError:
        raise MissingFile(
            f"no such file. Looked from {Path.cwd()}{name_hint(path)}", str(path)
        ) from None
    except OSError as error:
        raise ParseError(f"cannot be read: {error.strerror}", str(path)) from None


class OpenFile:
    """A file read at any position; it must keep its length while it is open.

    Memory-mapping would be as fast, but kills the process with a bus error once the file is
    truncated.

    Args:
        path: a regular file.
        writable: whether to open it for writing too.

    Raises:
        ParseError: as ``reading``.
    """

    def __init__(self, path: str | Path, writable: bool = False) -> None:
        self.name = str(path)
        with reading(path) as self._size:
            flags = os.O_RDWR if writable else os.O_RDONLY
            self._handle = os.open(path, flags | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._handle)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._size

    def read(self, at: int, size: int) -> bytes:
        """Return some bytes.

        Raises:
            ParseError: the file has become shorter.
        """
        try:
            if hasattr(os, "pread"):
                found = os.pread(self._handle, size, at)
            else:  # Windows
                with self._lock:
                    os.lseek(self._handle, at, os.SEEK_SET)
                    found = os.read(self._handle, size)
        except OSError as error:
            raise ParseError(f"cannot be read: {error.strerror}", self.name) from None
        if len(found) != size:
            raise ParseError(
                f"was truncated while in use: it ends at byte {at + len(found)}, and had "
                f"{self._size} when it was opened",
                self.name,
            )
        return found

    def write(self, at: int, content: bytes | memoryview) -> None:
        """Write some bytes.

        Raises:
            CaffeKDError: they cannot be written.
        """
        left = memoryview(content)
        try:
            while left:
                if hasattr(os, "pwrite"):
                    count = os.pwrite(self._handle, left, at)
                else:
                    with self._lock:
                        os.lseek(self._handle, at, os.SEEK_SET)
                        count = os.write(self._handle, left)
                left, at = left[count:], at + count
        except OSError as error:
            raise CaffeKDError(f"cannot be written: {error.strerror}", self.name) from None


def allocate(path: Path, size: int) -> None:
    """Make a file of zeros with its disk space allocated; one of that size stays as it is.

    Raises:
        OSError: there is no space.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    try:
        if os.fstat(handle).st_size == size:
            return
        os.ftruncate(handle, 0)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle, 0, size)
        else:
            for at in range(0, size, 1 << 20):
                os.write(handle, bytes(min(1 << 20, size - at)))
    except OSError:
        os.ftruncate(handle, 0)
        raise
    finally:
        os.close(handle)


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
def unfinished(path: Path, as_folder: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` to write to; what is left of it is removed at the end.

    It is locked as long as its process lives. A process id in the name would not be enough:
    containers that share a folder number their own. What killed processes left there is removed.

    Args:
        path: what is made.
        as_folder: whether that is a folder.

    Raises:
        OSError: nothing can be made there.
    """
    _remove_leftovers(path.parent)
    temporary, lock = _make_locked(path, as_folder)
    try:
        yield temporary
    finally:
        _remove(temporary)
        os.close(lock)


def _make_locked(path: Path, as_folder: bool) -> tuple[Path, int]:
    """Make a temporary file or folder; return its path and the descriptor with the lock."""
    prefix = f".{path.name[:50]}."
    while True:
        if as_folder:
            name = tempfile.mkdtemp(_UNFINISHED, prefix, path.parent)
            handle = os.open(name, os.O_RDONLY)
        else:
            handle, name = tempfile.mkstemp(_UNFINISHED, prefix, path.parent)
        # Another process may have removed it before it was locked, taking it for a leftover.
        if lock(handle) is not False and os.path.lexists(name):
            return Path(name), handle
        os.close(handle)


def lock(handle: int, shared: bool = False) -> bool | None:
    """Lock an open file or folder; return whether that succeeded, None where locks do not exist."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems
        return None
    return True


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left in a folder, the first time that we write there."""
    if folder in _tidied or fcntl is None:
        return
    _tidied.add(folder)
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if _LEFTOVER.fullmatch(entry.name)]
    for name in names:
        with suppress(OSError):  # already removed, or another user's
            path = folder / name
            handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
            try:
                if lock(handle):
                    _remove(path)
            finally:
                os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def put_in_place(temporary: Path, path: Path) -> None:
    """Rename a finished file or folder; a power cut leaves either the old or the new one, complete.

    The content is synced before the name, or the new name could have an empty file.
    """
    if temporary.is_dir():
        for file in temporary.iterdir():
            _sync(file)
    _sync(temporary)
    os.replace(temporary, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":
        return  # folders cannot be opened there
    handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if not is_folder or error.errno != errno.EINVAL:  # some file systems have no such thing
            raise
    finally:
        os.close(handle)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it when the block succeeds.

    A reader sees the old file or the new one, never a partial one, even after a power cut; if the
    block fails, the old file stays and the temporary one is removed. Where ``path`` is a link, its
    target is replaced.

    Raises:
        CaffeKDError: the folder cannot be written, the disk is full, or ``path`` is a folder or a
            device.
    """
    check_name(path)
    named, path = path, Path(os.path.realpath(path))
    temporary: Path | None = None
    try:
        if path.exists() and not path.is_file():  # /dev/null would become a file
            what = "a folder" if path.is_dir() else "a device or pipe"
            raise CaffeKDError(f"cannot be written: it is {what}", str(named))
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished(path) as temporary:
            yield temporary
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)  # mkstemp makes files private
            put_in_place(temporary, path)
    except CaffeKDError as error:
        if temporary is not None and error.where == str(temporary):  # a name the user has not given
            raise type(error)(error.message, str(named)) from None
        raise
    except OSError as error:
        reason = error.strerror or error
        raise CaffeKDError(f"cannot be written: {reason}", str(named)) from error


def write_atomically(path: str | Path, content: bytes | Iterable[bytes]) -> None:
    """Write a file so that at any moment either the old or the new one exists, complete."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        for chunk in [content] if isinstance(content, bytes) else content:
            file.write(chunk)


def find(path: str, beside: str | Path | None) -> Path:
    """Resolve a path in a prototxt: from the working directory, then beside the file that names it.

    Raises:
        ParseError: it holds a NUL character.
    """
    check_name(path)
    # Not Path.exists: it fails on a name that is too long.
    if beside is not None and not os.path.exists(path):
        neighbour = Path(beside).parent / path
        if os.path.exists(neighbour):
            return neighbour
    return Path(path)


def new_file(path: Path) -> Path:
    """Make an empty file: ``path`` or, where that exists, ``<stem>_2`` and so on.

    Raises:
        CaffeKDError: the folder cannot be written.
    """
    check_name(path)
    names = itertools.chain(
        [path], (path.with_stem(f"{path.stem}_{n}") for n in itertools.count(2))
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for name in names:
            with suppress(FileExistsError):
                os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
                return name
    except OSError as error:
        raise CaffeKDError(f"cannot be written: {error.strerror}", str(path)) from None
    raise AssertionError("unreachable")
