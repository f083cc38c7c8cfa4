"""LMDB databases of Datum messages.

Reading does not use the lmdb library: it trusts every page of the file it maps, so that a
truncated or damaged database kills the process with a bus error, and it refuses to open the same
database twice, which a train and a test net may do. The format is small and frozen; the walk
below checks each offset before it is followed, and the file is read, not mapped. Writing is the
library's.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import DataError
from ...core.files import OpenFile, name_hint, put_in_place, unfinished
from ..datum import DatumSamples
from ..source import FolderLookup

# The layout on disk (64-bit, little-endian), after the page header of 16 bytes:
_PAGE = struct.Struct("<QHHHH")  # page number, unused, flags, end of node pointers, start of nodes
_META = struct.Struct("<IIQQ48s48sQQ")  # magic, version, address, size, free, main, last page, txn
_TREE = struct.Struct("<IHHQQQQQ")  # page size, flags, depth, branches, leaves, overflow, n, root
_NODE = struct.Struct("<HHHH")  # size low, size high, flags, key size; in a branch a page number
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW = 1, 2, 4  # page flags
_BIG = 1  # node flag: the value lies on overflow pages
_NO_ROOT = (1 << 64) - 1
_COMMIT_EVERY = 1000  # samples in a transaction, as in Caffe's tools
_FIRST_MAP_BYTES = 16 << 20


class LmdbSamples(DatumSamples):
    """The samples of an LMDB, in the order of their keys.

    Args:
        path: the folder, or its ``data.mdb``.
        force_color: encoded images become BGR (True) or grey (False); None leaves them as stored.

    Raises:
        DataError: there is no LMDB, or it is empty, truncated or damaged.
    """

    def __init__(self, path: Path, force_color: bool | None = None) -> None:
        self.name = str(path)
        self._force_color = force_color
        self._file = _open(path)
        self._locations = _Tree(self._file, self.name).locations()
        self.encoded = self._is_encoded()

    def __len__(self) -> int:
        return len(self._locations)

    def key(self, index: int) -> bytes:
        """Return the key of a sample."""
        at, size = self._locations[index, :2]
        return self._file.read(at, size)

    def _value(self, index: int) -> bytes:
        at, size = self._locations[index, 2:]
        return self._file.read(at, size)


def open_samples(source: str, folder_lookup: FolderLookup, force_color: bool | None) -> LmdbSamples:
    """Open the database as a backend."""
    return LmdbSamples(folder_lookup(source), force_color)


def recognizes(path: Path) -> bool:
    """Return whether a path holds the files of an LMDB."""
    return path.name == "data.mdb" or (path / "data.mdb").exists()


def _remedy(path: Path) -> str:
    if "mnist" in path.name.lower():
        return f"make it with caffe_kd convert_mnist_data IMAGES LABELS {path} -backend lmdb"
    if path.name.startswith("cifar10_"):
        return f"make it with caffe_kd get_cifar10 -dir {path.parent}"
    return f"caffe_kd convert_imageset ROOT LIST {path} makes one of image files"


def _open(path: Path) -> OpenFile:
    """Open the database's file."""
    file = path / "data.mdb" if path.is_dir() else path
    if not file.is_file():
        is_level_db = (path / "CURRENT").is_file()
        raise DataError(
            ("this is a LevelDB: write backend: LEVELDB; " if is_level_db else "")
            + f"no LMDB at {path}{name_hint(path) or f'; {_remedy(path)}'}",
        )
    opened = OpenFile(file)
    if not len(opened):
        raise DataError("the LMDB is truncated. Received: an empty file.", str(path))
    return opened


class _Tree:
    """Walks the main tree of an LMDB file and checks everything it reads."""

    def __init__(self, file: OpenFile, name: str) -> None:
        self._file = file
        self._at, self._bytes = 0, b""  # the tree page that was read last
        self._name = name
        self._page_bytes = 4096  # for the first header, which states the real size
        metas = [self._meta(at=0)]
        self._page_bytes = metas[0][2]
        metas.append(self._meta(at=self._page_bytes))
        _, self._entries, _, self._root = max(metas)  # the newest transaction counts

    def locations(self) -> np.ndarray:
        """Return int64 [N, 4]: key position, key size, value position, value size, by key."""
        if self._root == _NO_ROOT or not self._entries:
            raise DataError("the LMDB holds no samples", self._name)
        found = array("q")
        seen = set()
        to_visit = [self._root]
        while to_visit:
            page = to_visit.pop()
            if page in seen:
                raise self._damaged(f"page {page} is reached twice")
            seen.add(page)
            flags, nodes = self._nodes(page)
            if flags & _BRANCH:
                to_visit.extend(reversed([self._child(node) for node in nodes]))
            else:
                for node in nodes:
                    found.extend(self._sample(node, page))
        if len(found) != 4 * self._entries:
            raise self._damaged(f"{len(found) // 4} samples found, {self._entries} stated")
        return np.frombuffer(found, np.int64).reshape(-1, 4)

    def _meta(self, at: int) -> tuple[int, int, int, int]:
        """Return transaction, entries, page size and root page of one of the two headers."""
        if len(self._file) < at + _PAGE.size + _META.size:
            raise self._damaged("the header is cut off")
        meta = _META.unpack(self._file.read(at + _PAGE.size, _META.size))
        magic, version, _, _, free, main, _, transaction = meta
        if magic != _MAGIC or version != _VERSION:
            raise DataError(
                "not an LMDB database of a 64-bit little-endian machine. "
                f"Received: magic 0x{magic:08x}, version {version}. "
                f"Expected: 0x{_MAGIC:08x}, version {_VERSION}.",
                self._name,
            )
        page_bytes = _TREE.unpack(free)[0]
        if page_bytes not in (1 << bits for bits in range(9, 16)):
            raise self._damaged(f"a page size of {page_bytes} bytes")
        *_, entries, root = _TREE.unpack(main)
        return transaction, entries, page_bytes, root

    def _page(self, page: int) -> tuple[int, int, int, int]:
        """Return position, flags, end of pointers and start of nodes of a page."""
        at = page * self._page_bytes
        if page < 2 or at + self._page_bytes > len(self._file):
            raise self._damaged(f"page {page} is outside the file")
        number, _, flags, lower, upper = _PAGE.unpack(self._file.read(at, _PAGE.size))
        if number != page:
            raise self._damaged(f"page {page} has the number {number}")
        return at, flags, lower, upper

    def _nodes(self, page: int) -> tuple[int, Iterator[int]]:
        """Return the flags of a tree page and the positions of its nodes."""
        at, flags, lower, upper = self._page(page)
        if flags & ~0x10 not in (_BRANCH, _LEAF):  # 0x10: a mark for pages in use while writing
            raise self._damaged(f"page {page} has the unexpected flags 0x{flags:x}")
        if not _PAGE.size <= lower <= upper <= self._page_bytes:
            raise self._damaged(f"page {page} has invalid bounds")
        self._at, self._bytes = at, self._file.read(at, self._page_bytes)
        offsets = struct.unpack_from(f"<{(lower - _PAGE.size) // 2}H", self._bytes, _PAGE.size)
        if offsets and (min(offsets) < upper or max(offsets) > self._page_bytes - _NODE.size):
            raise self._damaged(f"a node of page {page} is outside it")
        if any(b - a < _NODE.size for a, b in pairwise(sorted(offsets))):
            raise self._damaged(
                f"nodes of page {page} overlap"
            )  # or a small file could claim endless nodes
        return flags, (at + offset for offset in offsets)

    def _child(self, node: int) -> int:
        low, high, highest, _ = _NODE.unpack_from(self._bytes, node - self._at)
        return int(low | high << 16 | highest << 32)

    def _sample(self, node: int, page: int) -> tuple[int, int, int, int]:
        """Return where key and value of a leaf's node lie."""
        low, high, flags, key_size = _NODE.unpack_from(self._bytes, node - self._at)
        size = low | high << 16
        key = node + _NODE.size
        value = key + key_size
        page_end = (page + 1) * self._page_bytes
        if flags not in (0, _BIG):
            raise DataError(
                "the LMDB has named databases or several values for a key. "
                "Expected: one Datum for each key.",
                self._name,
            )
        if value + (8 if flags else size) > page_end:
            raise self._damaged(f"a sample of page {page} extends beyond it")
        if flags == _BIG:
            pointer = self._bytes[value - self._at : value - self._at + 8]
            first = int.from_bytes(pointer, "little")
            at, page_flags, low, high = self._page(first)
            end = at + (low | high << 16) * self._page_bytes
            value = at + _PAGE.size
            if not page_flags & _OVERFLOW or value + size > min(end, len(self._file)):
                raise self._damaged(f"the value on page {first} is cut off")
        return key, key_size, value, size

    def _damaged(self, what: str) -> DataError:
        return DataError(
            f"the LMDB is truncated or damaged: {what}. Received: {len(self._file)} bytes. Make it "
            "again, for MNIST with caffe_kd convert_mnist_data",
            self._name,
        )


def write_lmdb(path: Path, samples: Iterable[tuple[bytes, bytes]], overwrite: bool = False) -> int:
    """Write samples (key, Datum bytes) as an LMDB, atomically; return their number.

    Raises:
        DataError: as of `LmdbWriter`.
    """
    with LmdbWriter(path, overwrite) as database:
        for key, value in samples:
            database.put(key, value)
    return database.count


class LmdbWriter:
    """Writes an LMDB atomically: it exists once the block has succeeded, or not at all.

        with LmdbWriter(path) as database:
            database.put(key, value)

    It is made in a folder beside ``path``, which is renamed when it is complete. It commits every
    1000 samples, and its map grows as needed.

    Attributes:
        count: how many samples were put.

    Raises:
        DataError: the folder exists and ``overwrite`` is false, a key is empty, too long or
            occurs twice, there are no samples, or the disk is full.
    """

    def __init__(self, path: Path, overwrite: bool = False) -> None:
        self.count = 0
        self._path = path
        self._overwrite = overwrite
        self._portion: list[tuple[bytes, bytes]] = []
        self._unfinished = ExitStack()
        self._database: Any = None

    def __enter__(self) -> LmdbWriter:
        import lmdb

        if self._path.exists() and not self._overwrite:
            raise DataError("exists already and is not overwritten", str(self._path))
        with self._reporting(), ExitStack() as stack:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._folder = stack.enter_context(unfinished(self._path, as_folder=True))
            self._database = lmdb.open(str(self._folder), map_size=_FIRST_MAP_BYTES, sync=False)
            stack.callback(self._database.close)
            self._unfinished = stack.pop_all()
        return self

    def put(self, key: bytes, value: bytes) -> None:
        """Write a sample."""
        self._portion.append((key, value))
        self.count += 1
        if len(self._portion) == _COMMIT_EVERY:
            self._commit()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._unfinished:
            if kind is None:
                self._commit()
                self._finish()

    def _finish(self) -> None:
        """Rename the database to its final name."""
        if not self.count:
            raise DataError("no samples to write", str(self._path))
        with self._reporting():
            self._database.sync(True)
            self._database.close()
            (self._folder / "lock.mdb").unlink(missing_ok=True)
            umask = os.umask(0)
            os.umask(umask)
            self._folder.chmod(0o777 & ~umask)  # mkdtemp makes folders private
            if not self._path.exists():
                put_in_place(self._folder, self._path)
                return
            _check_replaceable(self._path)
            with unfinished(self._path, as_folder=True) as before:
                os.replace(
                    self._path, before
                )  # removal takes long: a kill meanwhile would lose both
                put_in_place(self._folder, self._path)

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        import lmdb

        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise DataError(f"cannot be written: {reason}", str(self._path)) from error
        except lmdb.Error as error:  # which reports a full disk only as Input/output error
            reason = f"{error}. Is the disk full?"
            raise DataError(f"cannot be written: {reason}", str(self._path)) from error

    def _commit(self) -> None:
        """Write samples in one transaction; if the map is full, double it and retry."""
        import lmdb

        with self._reporting():
            while True:
                try:
                    with self._database.begin(write=True) as transaction:
                        self._put(transaction)
                    break
                except lmdb.MapFullError:
                    self._database.set_mapsize(2 * self._database.info()["map_size"])
        self._portion = []

    def _put(self, transaction: Any) -> None:
        for key, value in self._portion:
            if not transaction.put(key, value, overwrite=False):
                raise DataError(f"the key {key!r} occurs twice", str(self._path))


def _check_replaceable(path: Path) -> None:
    """Raise DataError rather than replace a folder that is not just an LMDB."""
    if not path.is_dir() or {p.name for p in path.iterdir()} - {"data.mdb", "lock.mdb"}:
        raise DataError("is not replaced, because it holds more than an LMDB", str(path))
