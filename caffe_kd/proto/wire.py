"""Walks protobuf's wire format in place, and writes pieces of it.

protobuf's own classes return a blob's numbers one Python object at a time, which makes a net of
60 million parameters take seconds to read and half a minute to write. A walk over the bytes
touches only those between the blobs; the numbers are not copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..core.errors import ParseError
from ..core.files import reading

VARINT, I64, LEN, I32 = 0, 1, 2, 5
_KINDS = {VARINT: "a number", I64: "a double", LEN: "text or a block", I32: "a float"}

# A net of a thousand layers has some ten thousand fields outside its blobs' numbers. Far more would
# only waste memory and time.
MAX_FIELDS = 200_000

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_LFS_POINTER = b"version https://git-lfs"
_MAGICS = {
    HDF5_MAGIC: "an HDF5 file",
    b"PK\x03\x04": "a zip archive, as PyTorch writes",
    b"\x1f\x8b": "a gzip archive: decompress it first",
    b"BZh": "a bzip2 archive: decompress it first",
    b"\x80\x02": "a Python pickle, which is not opened for safety",
}


class Damaged(Exception):
    """The bytes do not follow the wire format; the message says where and how."""


class Field(NamedTuple):
    """One field, from ``begin``: a ``VARINT``'s value, or the position of any other's payload."""

    number: int
    kind: int
    value: int
    start: int
    end: int
    begin: int


class Walker:
    """Steps through the fields of messages inside ``data``."""

    def __init__(self, data: bytes | bytearray, most_fields: int = MAX_FIELDS) -> None:
        self.data = data
        self._most_fields = self._fields_left = most_fields

    def fields(
        self, start: int, end: int, kinds: Mapping[int, tuple[int, ...]] | None = None
    ) -> Iterator[Field]:
        """Yield the fields of the message at ``[start, end)`` that ``kinds`` asks for.

        Args:
            start: first byte of the message.
            end: the byte after it.
            kinds: the wire types a field may have, by field number; other fields are skipped. None:
                all fields, of any wire type.

        Raises:
            Damaged: a field does not fit the message, or has another wire type.
        """
        at = start
        while at < end:
            begin = at
            tag, at = self._varint(at, end)
            number, kind = tag >> 3, tag & 7
            if kind not in _KINDS or not 0 < number < 1 << 29:
                raise Damaged(f"at byte {begin} there is no valid field")
            value = 0
            if kind == VARINT:
                value, payload = self._varint(at, end)
                at = payload
            else:
                size = {I64: 8, I32: 4}.get(kind, 0)
                if kind == LEN:
                    size, at = self._varint(at, end)
                payload, at = at, at + size
                if at > end:
                    raise self._too_long(number, begin, size, end)
            self._fields_left -= 1
            if self._fields_left < 0:
                raise Damaged(f"it has more than {self._most_fields} fields besides its values")
            if kinds is None:
                yield Field(number, kind, value, payload, at, begin)
                continue
            allowed = kinds.get(number)
            if allowed is None:
                continue
            if kind not in allowed:
                raise Damaged(
                    f"at byte {begin}, field {number} is {_KINDS[kind]}, "
                    f"expected {_KINDS[allowed[0]]}"
                )
            yield Field(number, kind, value, payload, at, begin)

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        begin, value = at, 0
        for shift in range(0, 70, 7):
            if at == end:
                raise self._cut(begin, end)
            byte = self.data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & (1 << 64) - 1, at
        raise Damaged(f"at byte {begin} a number does not end")

    def _cut(self, begin: int, end: int) -> Damaged:
        if end == len(self.data):
            return Damaged(f"it ends at byte {end}, inside a field: is it truncated?")
        return Damaged(f"at byte {begin} a field does not fit the block it is in")

    def _too_long(self, number: int, begin: int, size: int, end: int) -> Damaged:
        if end == len(self.data):
            return Damaged(
                f"it ends at byte {end}, but field {number} at byte {begin} is {size} bytes long: "
                "is it truncated?"
            )
        return self._cut(begin, end)

    def varints(self, field: Field) -> Iterator[int]:
        """Yield the numbers of a repeated integer field, packed or not."""
        if field.kind == VARINT:
            yield field.value
            return
        at = field.start
        while at < field.end:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise Damaged(f"it has more than {self._most_fields} fields besides its values")
            value, at = self._varint(at, field.end)
            yield value

    def bytes(self, field: Field) -> bytes:
        """Return a copy of a field's payload."""
        return bytes(self.data[field.start : field.end])


def signed(value: int, bits: int) -> int:
    """Return the lowest ``bits`` of a varint as a number in two's complement."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value


def varint(value: int) -> bytes:
    """Encode a number of at least 0."""
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def number_field(number: int, value: int) -> bytes:
    """Encode an integer field of at least 0."""
    return varint(number << 3 | VARINT) + varint(value)


def header(number: int, size: int) -> bytes:
    """Encode the header of a string, a message or packed numbers of ``size`` bytes."""
    return varint(number << 3 | LEN) + varint(size)


def block(number: int, parts: Sequence[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """Yield a message inside a message, given in pieces."""
    yield header(number, sum(map(len, parts)))
    yield from parts


def whole_file(path: str | Path) -> bytearray:
    """Read a file into memory, where arrays on it are writable.

    Memory-mapping would read less, but kills the process with a bus error if the file is truncated
    meanwhile, for example by a copy of a snapshot that is still running.

    Raises:
        ParseError: the file is missing, empty, a folder or device, or cannot be read.
    """
    with reading(path) as size:
        if size == 0:
            raise ParseError("is empty", str(path))
        content = bytearray(size)
        with open(path, "rb") as file:
            if file.readinto(content) != size:
                raise ParseError("was truncated while it was being read", str(path))
        return content


def looks_like(data: bytes | bytearray) -> str | None:
    """Return the kind of a non-protobuf file, or None if its beginning does not show it."""
    head = bytes(data[:1024])
    if head.startswith(_LFS_POINTER):
        return "a git-lfs pointer: the file itself was not fetched. Run 'git lfs pull'"
    for magic, name in _MAGICS.items():
        if head.startswith(magic):
            return name
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # not just a truncated character
            return None
        text = head[: error.start].decode("utf-8-sig")
    if text.lstrip()[:1] == "<":
        return "a web page: the download is not the file itself"
    if all(c.isprintable() or c in "\t\r\n" for c in text):
        return "text, such as a prototxt"
    return None
