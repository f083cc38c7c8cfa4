"""LevelDB databases of Datum messages, read without the LevelDB library.

The library writes into the folder even when reading, and its Python bindings come as wheels for
few versions of Python. The format is small and frozen: a manifest names the live tables (sorted
keys and values in blocks) and the log of what is not in a table yet; each key has the number of
its write, and the newest counts. Every checksum is compared, which LevelDB skips by default, every
offset is checked before it is followed, and nothing in the folder is changed.
"""

from __future__ import annotations

import re
import struct
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import google_crc32c
import numpy as np

from ...core.errors import DataError
from ...core.files import name_hint, read_bytes
from ...core.memory import growth_problem
from ..datum import DatumSamples
from ..snappy import decompress, decompressed_size, varint
from ..source import FolderLookup

_COMPARATOR = b"leveldb.BytewiseComparator"
_CHUNK = 32768  # a log is written in blocks of this size
_LOG_HEADER = struct.Struct("<IHB")  # checksum, length, kind
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_BATCH_HEADER = struct.Struct("<QI")  # number of its first write, count
_FOOTER_BYTES, _MAGIC = 48, 0xDB4775248B80FB57
_BLOCK_TRAILER = 5  # compression, checksum
_CHECKSUM_MASK = 0xA282EAD8
_STORED, _SNAPPY = 0, 1
_IN_LOG = -1  # instead of a table's number
_TAG_BYTES = 8  # after a key in a table: number of the write << 8 | kind
_DELETED, _PUT = 0, 1
_MOST_KEY_BYTES = 4096  # Caffe's tools write at most 256
_ENTRY_BYTES = 300  # memory of a key beside its bytes
_KEPT_BLOCK_BYTES = 8 << 20
_MOST_TABLES = 100_000  # of 2 MB each, mostly
_MOST_LOG_BYTES = 1 << 30  # Caffe's tools let a log grow to 256 MB, plus the last thousand samples
_DAMAGE = (
    ValueError,
    IndexError,
    OverflowError,
    struct.error,
)  # what parsing damaged bytes raises

Result = TypeVar("Result")


class _Location(NamedTuple):
    """Where a value is: in a block of a table, or in a batch of the log."""

    table: int  # its number, or _IN_LOG
    at: int  # of the block in its file; the batch's number
    size: int  # of the block in its file
    start: int  # in the block or batch
    length: int


class LevelDbSamples(DatumSamples):
    """The samples of a LevelDB, in the order of their keys.

    All keys are read at the start; values that are still in the log stay in memory.

    Args:
        path: the folder.
        force_color: encoded images become BGR (True) or grey (False); None leaves them as stored.

    Raises:
        DataError: there is no LevelDB, or it is empty, truncated or damaged.
        ParseError: a file cannot be read.
    """

    def __init__(self, path: Path, force_color: bool | None = None) -> None:
        self.name = str(path)
        self._force_color = force_color
        database = _Database(path)
        self._batches = database.batches
        self._keys, self._locations = database.newest()
        self._block = _Blocks(database.tables)
        self.encoded = self._is_encoded()

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, index: int) -> bytes:
        """Return the key of a sample."""
        return self._keys[index]

    def _value(self, index: int) -> bytes:
        location = _Location(*self._locations[index].tolist())
        end = location.start + location.length
        if location.table == _IN_LOG:
            return self._batches[location.at][location.start : end]
        try:
            block = self._block(location.table, location.at, location.size)
        except (OSError, *_DAMAGE) as error:
            raise _damaged(self._where(index), error) from error
        return block[location.start : end]


def open_samples(
    source: str, folder_lookup: FolderLookup, force_color: bool | None
) -> LevelDbSamples:
    """Open the database as a backend."""
    return LevelDbSamples(folder_lookup(source), force_color)


def recognizes(path: Path) -> bool:
    """Return whether a path holds the files of a LevelDB."""
    return (path / "CURRENT").is_file()


class _Blocks:
    """The blocks read last, up to a few MB, at least one.

    Samples that follow each other share a block, or where tables overlap a few blocks.
    """

    def __init__(self, tables: dict[int, Path]) -> None:
        self._tables = tables
        self._kept: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._bytes = 0

    def __call__(self, table: int, at: int, size: int) -> bytes:
        """Return the bytes of a block."""
        block = self._kept.pop((table, at), None)
        if block is None:
            with self._tables[table].open("rb") as file:
                block = _uncompressed(_read_block(file, at, size))
            self._bytes += len(block)
            while self._kept and self._bytes > _KEPT_BLOCK_BYTES:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        self._kept[table, at] = block
        return block


class _Database:
    """What the files of a LevelDB hold, and where.

    Attributes:
        tables: the live tables' files by number.
        batches: the writes that are in no table yet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows = array("q")  # the fields of one _Location after the other
        self._newest: dict[bytes, tuple[int, int]] = {}  # by key: its tag and its row
        self.batches: list[bytes] = []
        self._key_bytes = self._file_bytes = 0
        version = self._guarded(self._manifest(), _Version)
        self.tables = {n: self._table_file(n, size) for n, size in version.tables.items()}
        for number, path in self.tables.items():
            self._guarded(path, partial(self._read_table, number))
        for path in sorted(folder.glob("*.log"), key=lambda log: log.stem.zfill(20)):
            if path.stem.isdecimal() and version.needs_log(int(path.stem)):
                self._guarded(path, self._read_log)

    def newest(self) -> tuple[list[bytes], np.ndarray]:
        """Return the keys in order, and int64 [N, 5]: the location of each key's newest value."""
        keys = sorted(k for k, (tag, _) in self._newest.items() if tag & 0xFF == _PUT)
        if not keys:
            raise DataError("the LevelDB holds no samples", str(self._folder))
        locations = np.frombuffer(self._rows, np.int64).reshape(-1, len(_Location._fields))
        return keys, locations[[self._newest[key][1] for key in keys]]

    def _guarded(self, path: Path, read: Callable[[Path], Result]) -> Result:
        try:
            return read(path)
        except (OSError, *_DAMAGE) as error:
            raise _damaged(str(path), error) from error

    def _manifest(self) -> Path:
        current = self._folder / "CURRENT"
        if not current.is_file():
            is_lmdb = (self._folder / "data.mdb").is_file()
            remedy = "this is an LMDB: write backend: LMDB" if is_lmdb else "it has no file CURRENT"
            raise DataError(
                f"no LevelDB here: {remedy}{name_hint(self._folder)}", str(self._folder)
            )
        name = read_bytes(current, _MOST_KEY_BYTES).decode(errors="replace").strip()
        if not re.fullmatch(r"MANIFEST-\d+", name):
            raise _damaged(str(current), ValueError(f"it names the manifest {name[:40]!r}"))
        return self._folder / name

    def _table_file(self, number: int, size: int) -> Path:
        for ending in ("ldb", "sst"):
            path = self._folder / f"{number:06d}.{ending}"
            if path.is_file():
                if path.stat().st_size < size:
                    raise _damaged(
                        str(path), ValueError(f"{path.stat().st_size} bytes of {size} are there")
                    )
                return path
        raise DataError(f"the LevelDB lacks its table {number:06d}.ldb", str(self._folder))

    def _read_table(self, number: int, path: Path) -> None:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            self._file_bytes += size
            file.seek(max(0, size - _FOOTER_BYTES))
            footer = file.read(_FOOTER_BYTES)
            if int.from_bytes(footer[-8:], "little") != _MAGIC:
                raise ValueError("it does not end as a table does")
            _, at = _handle(footer, 0)
            index, _ = _handle(footer, at)
            end = 0
            index_block = _uncompressed(_read_block(file, *index))
            for _, start, _ in _entries(index_block):
                (at, size), _ = _handle(index_block, start)
                if at < end:  # else a small file could claim endless entries
                    raise ValueError("its blocks overlap")
                end = at + size
                for key, start, length in _entries_without_values(_read_block(file, at, size)):
                    tag = int.from_bytes(key[-_TAG_BYTES:], "little")
                    self._add(key[:-_TAG_BYTES], tag, _Location(number, at, size, start, length))

    def _read_log(self, path: Path) -> None:
        self._file_bytes += path.stat().st_size
        for batch in _log_records(read_bytes(path, _MOST_LOG_BYTES), whole=True):
            sequence, count = _BATCH_HEADER.unpack_from(batch)
            at = _BATCH_HEADER.size
            for number in range(sequence, sequence + count):
                kind = batch[at]
                start, at = _string(batch, at + 1)
                key, length = batch[start:at], 0
                if kind == _PUT:
                    start, at = _string(batch, at)
                    length = at - start
                location = _Location(_IN_LOG, len(self.batches), 0, start, length)
                self._add(key, number << 8 | kind, location)
            if at != len(batch):
                raise ValueError(f"{count} writes do not fill their {len(batch)} bytes")
            self.batches.append(batch)

    def _add(self, key: bytes, tag: int, location: _Location) -> None:
        if tag & 0xFF not in (_DELETED, _PUT) or len(key) > _MOST_KEY_BYTES:
            raise ValueError(f"a key of {len(key)} bytes and kind {tag & 0xFF}")
        self._key_bytes += len(key) + _ENTRY_BYTES
        if problem := growth_problem(self._key_bytes, self._file_bytes):
            raise ValueError(f"it holds too many keys: {problem}")
        if tag >= self._newest.get(key, (0, 0))[0]:
            self._newest[key] = tag, len(self._rows) // len(location)
            self._rows.extend(location)


class _Version:
    """The database's state after reading a manifest to its end: its live tables and its logs."""

    def __init__(self, path: Path) -> None:
        self._log = self._previous_log = -1
        live: dict[tuple[int, int], int] = {}  # by level and number of a table: its size
        for edit in _log_records(read_bytes(path, _MOST_LOG_BYTES), whole=False):
            self._apply(edit, live)
        if self._log < 0:
            raise ValueError("it names no log")
        self.tables = {number: size for (_, number), size in sorted(live.items())}

    def needs_log(self, number: int) -> bool:
        """Whether a log holds what is in no table yet."""
        return number >= self._log or number == self._previous_log

    def _apply(self, edit: bytes, live: dict[tuple[int, int], int]) -> None:
        at = 0
        while at < len(edit):
            tag, at = varint(edit, at)
            if tag == 1:
                start, at = _string(edit, at)
                if edit[start:at] != _COMPARATOR:
                    raise ValueError(f"its keys are ordered by {edit[start:at][:60]!r}")
            elif tag in (2, 3, 4, 9):  # log, next file, last write, previous log
                value, at = varint(edit, at)
                self._log = value if tag == 2 else self._log
                self._previous_log = value if tag == 9 else self._previous_log
            elif tag == 5:  # where the last compaction of a level ended
                _, at = varint(edit, at)
                _, at = _string(edit, at)
            elif tag in (6, 7):  # a table goes or comes
                level, at = varint(edit, at)
                number, at = varint(edit, at)
                if tag == 6:
                    live.pop((level, number), None)
                    continue
                live[level, number], at = varint(edit, at)
                if len(live) > _MOST_TABLES:
                    raise ValueError(f"it names more than {_MOST_TABLES} tables")
                _, at = _string(edit, at)  # its first and last key
                _, at = _string(edit, at)
            else:
                raise ValueError(f"an entry of the unknown kind {tag}")


# ---- the encodings in the files


def _damaged(where: str, error: Exception) -> DataError:
    return DataError(f"the LevelDB is truncated or damaged: {error}", where)


def _string(data: bytes, at: int) -> tuple[int, int]:
    """Return start and end of the bytes whose length is at a position."""
    length, start = varint(data, at)
    if start + length > len(data):
        raise IndexError("bytes are cut off")
    return start, start + length


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Return position and size of the block referenced at a position, and the next position."""
    start, at = varint(data, at)
    size, at = varint(data, at)
    return (start, size), at


def _log_records(data: bytes, whole: bool) -> Iterator[bytes]:
    """Yield the records of a log, which may be spread over several of its blocks.

    Args:
        data: the file.
        whole: whether a record that is cut off at the end is an error; else it counts as never
            written, as in LevelDB.
    """
    record = bytearray()
    is_begun = False
    at = 0
    while at + _LOG_HEADER.size <= len(data):
        room = _CHUNK - at % _CHUNK
        if room < _LOG_HEADER.size:  # too little for a header is left over
            at += room
            continue
        checksum, length, kind = _LOG_HEADER.unpack_from(data, at)
        if kind == 0 and length == 0:  # reserved and not written
            at += room
            continue
        at += _LOG_HEADER.size
        if length > room - _LOG_HEADER.size or kind not in (_FULL, _FIRST, _MIDDLE, _LAST):
            raise ValueError(f"a record of {length} bytes and kind {kind}")
        if at + length > len(data):
            break
        if (kind in (_FULL, _FIRST)) == is_begun:
            raise ValueError("the parts of a record are not in order")
        _check(data[at - 1 : at + length], checksum)  # of the kind too
        record += data[at : at + length]
        is_begun = kind in (_FIRST, _MIDDLE)
        at += length
        if not is_begun:
            yield bytes(record)
            record.clear()
    if whole and (is_begun or at < len(data)):
        raise IndexError("its last record is cut off")


def _check(data: bytes, masked: int) -> None:
    """Compare bytes with their checksum, which LevelDB stores rotated and shifted."""
    checksum = google_crc32c.value(data)
    if (checksum >> 15 | checksum << 17) + _CHECKSUM_MASK & 0xFFFFFFFF != masked:
        raise ValueError("its checksum differs: some of its bytes are not what was written")


def _read_block(file: BinaryIO, at: int, size: int) -> bytes:
    """Return a block as stored, followed by the byte that gives its compression."""
    if at + size + _BLOCK_TRAILER > file.seek(0, 2):
        raise IndexError("a block is outside the file")
    file.seek(at)
    stored = file.read(size + _BLOCK_TRAILER)
    _check(stored[: size + 1], int.from_bytes(stored[size + 1 :], "little"))
    return stored[: size + 1]


def _uncompressed(block: bytes) -> bytes:
    if block[-1] not in (_STORED, _SNAPPY):
        raise ValueError(f"its compression {block[-1]} is not supported, only snappy")
    return decompress(block[:-1]) if block[-1] == _SNAPPY else block[:-1]


def _entries_without_values(stored: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield what ``_entries`` does; a large value that fills its block stays compressed."""
    if stored[-1] == _SNAPPY:
        block = stored[:-1]
        head = decompress(block, most=_MOST_KEY_BYTES)
        key, start, length = _entry(head, 0, b"")
        # One entry, one restart position and their number: the entry is the block's only one.
        if start + length + 8 == decompressed_size(block):
            yield key, start, length
            return
    yield from _entries(_uncompressed(stored))


def _entries(block: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield key, position and length of the value, for each entry of a block."""
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * restarts
    if end < 0:
        raise ValueError("a block is too short for its restart positions")
    key, at = b"", 0
    while at < end:
        key, start, length = _entry(block, at, key)
        at = start + length
        if at > end:
            raise IndexError("a value is cut off")
        yield key, start, length


def _entry(block: bytes, at: int, previous: bytes) -> tuple[bytes, int, int]:
    """Return key, position and length of the value of one entry, after the key before it."""
    shared, at = varint(block, at)
    own, at = varint(block, at)
    length, at = varint(block, at)
    if shared > len(previous) or shared + own > _MOST_KEY_BYTES or at + own > len(block):
        raise ValueError(f"a key that shares {shared} bytes and has {own} of its own")
    return previous[:shared] + block[at : at + own], at + own, length
