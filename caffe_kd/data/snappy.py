"""Decompression of snappy blocks, as LevelDB stores them."""

from __future__ import annotations

_MOST_EXPANSION = 22  # three bytes copy at most 64


def varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number of seven bits a byte at a position, and the position after it.

    Raises:
        IndexError: the data end within the number.
        ValueError: the number is longer than 64 bits.
    """
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is longer than 64 bits")


def decompressed_size(data: bytes) -> int:
    """Return the decompressed size that a snappy block states.

    Raises:
        IndexError: the block is cut off.
        ValueError: it states more than it can hold.
    """
    size, _ = varint(data, 0)
    if size > _MOST_EXPANSION * len(data):
        raise ValueError(f"{len(data)} compressed bytes state a size of {size}")
    return size


def decompress(data: bytes, most: int | None = None) -> bytes:
    """Return the bytes of a snappy block, or the first ``most`` of them.

    Raises:
        IndexError: the block is cut off.
        ValueError: the block is damaged.
    """
    size = decompressed_size(data)
    wanted = size if most is None else min(size, most)
    out = bytearray()
    _, at = varint(data, 0)
    filled = 0
    while filled < wanted:
        tag = data[at]
        kind = tag & 3
        if kind == 0:  # a literal; its length - 1 is in the tag or, from 60 on, after it
            length, start = (tag >> 2) + 1, at + 1
            if length > 60:
                start += length - 60
                length = int.from_bytes(data[at + 1 : start], "little") + 1
            at = start + length
            out += data[start:at]
        else:  # a copy of what came out before
            if kind == 1:
                length, distance = (tag >> 2 & 7) + 4, (tag >> 5) << 8 | data[at + 1]
            elif kind == 2:
                length, distance = (tag >> 2) + 1, data[at + 2] << 8 | data[at + 1]
            else:
                length, distance = (tag >> 2) + 1, int.from_bytes(data[at + 1 : at + 5], "little")
            at += kind + 1 if kind < 3 else 5
            if not 0 < distance <= filled:
                raise ValueError("a copy begins before the block")
            start = filled - distance
            if distance < length:  # it overlaps what it has just written
                out += (out[start:] * (length // distance + 1))[:length]
            else:
                out += out[start : start + length]
        if at > len(data):
            raise IndexError("a snappy block is cut off")
        filled += length
    if most is None and filled != size:
        raise ValueError(f"{filled} bytes result, {size} are stated")
    return bytes(out[:wanted])
