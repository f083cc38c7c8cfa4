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
    """Return how many bytes a snappy block announces.

    Raises:
        IndexError: the block is cut off.
        ValueError: it announces more than it can hold.
    """
    size, _ = varint(data, 0)
    if size > _MOST_EXPANSION * len(data):
        raise ValueError(f"{len(data)} compressed bytes announce {size}")
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
    while len(out) < wanted:
        tag = data[at]
        kind, high = tag & 3, tag >> 2
        at += 1
        if kind == 0:  # a literal; its length - 1 is in the tag or, from 60 on, after it
            extra = max(0, high - 59)
            length = 1 + (int.from_bytes(data[at : at + extra], "little") if extra else high)
            at += extra + length
            out += data[at - length : at]
            if at > len(data):
                raise IndexError("a literal is cut off")
            continue
        if kind == 1:
            length, distance = (high & 7) + 4, (tag >> 5) << 8 | data[at]
            at += 1
        else:
            width = 2 if kind == 2 else 4
            length, distance = high + 1, int.from_bytes(data[at : at + width], "little")
            at += width
        if not 0 < distance <= len(out):
            raise ValueError("a copy begins before the block")
        start = len(out) - distance
        piece = out[start : start + length]
        if distance < length:  # the copy goes on with what it has just written
            piece = (piece * (length // distance + 1))[:length]
        out += piece
    if most is None and len(out) != size:
        raise ValueError(f"{len(out)} bytes come out, {size} are announced")
    return bytes(out[:wanted])
