"""Ways to damage a file."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

MOST_BYTES = 4 << 20  # of a damaged file; what it expands to is up to the reader

_EDGES = (0, 1, 127, 128, 255, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
_FORMS = ("<B", "<H", ">H", "<I", ">I", "<Q", ">Q")
_WORDS = (
    b"-1", b"0", b"99999999999999999999", b"2147483647", b"1e308", b"nan", b"inf", b"\0",
    b"\x1b[2J", "\u202e".encode(), b"\xff\xfe", b"{", b"}", b'"', b"'", b"\\", b"\n",
    b"../../../etc/passwd", b"/dev/zero", b"%s%n", b"a" * 5000,
)  # fmt: skip


def flip_bits(data: bytearray, random: random.Random, _other: bytes) -> bytearray:
    """Flip a few bits."""
    for _ in range(random.choice((1, 1, 2, 8))):
        if data:
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return data


def set_bytes(data: bytearray, random: random.Random, _other: bytes) -> bytearray:
    """Replace some bytes by random ones."""
    if data:
        at = random.randrange(len(data))
        count = min(random.choice((1, 2, 4, 16)), len(data) - at)
        data[at : at + count] = random.randbytes(count)
    return data


def truncate(data: bytearray, random: random.Random, _other: bytes) -> bytearray:
    """Truncate the file."""
    return data[: random.randrange(len(data) + 1)]


def cut_out(data: bytearray, random: random.Random, _other: bytes) -> bytearray:
    """Remove a part."""
    at = random.randrange(len(data) + 1)
    del data[at : at + random.choice((1, 4, 64, 4096))]
    return data


def splice(data: bytearray, random: random.Random, other: bytes) -> bytearray:
    """Continue with the end of another file."""
    return data[: random.randrange(len(data) + 1)] + other[random.randrange(len(other) + 1) :]


def double(data: bytearray, random: random.Random, _other: bytes) -> bytearray:
    """Repeat a part once or many times."""
    at = random.randrange(len(data) + 1)
    part = data[at : at + random.choice((1, 8, 64, 512))]
    return data[:at] + part * random.choice((2, 2, 3, 100)) + data[at + len(part) :]


def number(data: bytearray, random: random.Random, _other: bytes) -> bytearray:
    """Replace what may be a length by a limit of an integer type."""
    value = random.choice(_EDGES)
    kinds = [
        f for f in ("<B", "<H", ">H", "<I", ">I", "<Q", ">Q") if value < 256 ** struct.calcsize(f)
    ]
    packed = struct.pack(random.choice(kinds), value)
    at = random.randrange(len(data) + 1)
    data[at : at + len(packed)] = packed
    return data


def near_number(data: bytearray, random: random.Random, _other: bytes) -> bytearray:
    """Add a small number to a byte near the start, where headers are, or near the end."""
    if data:
        span = min(len(data), 64)
        at = (
            random.randrange(span)
            if random.random() < 0.6
            else len(data) - 1 - random.randrange(span)
        )
        data[at] = (data[at] + random.choice((-2, -1, 1, 2, 16, 128))) % 256
    return data


def word(data: bytearray, random: random.Random, _other: bytes) -> bytearray:
    """Insert a word that is hard for text readers, or replace a word by it."""
    at = random.randrange(len(data) + 1)
    if random.random() < 0.5:  # at the beginning of a word
        at = max(data.rfind(b" ", 0, at), data.rfind(b"\n", 0, at), data.rfind(b'"', 0, at)) + 1
    end = at
    if random.random() < 0.5:
        while end < len(data) and chr(data[end]).isalnum():
            end += 1
    return data[:at] + random.choice(_WORDS) + data[end:]


def nest(data: bytearray, random: random.Random, _other: bytes) -> bytearray:
    """Open a block many times: repeat one of the file's own lines, or a bracket."""
    lines = [line for line in bytes(data).splitlines() if line.rstrip().endswith(b"{")]
    opened = random.choice(lines or [b"[", b"{", b"\x0a\x7f"])
    at = random.randrange(len(data) + 1)
    return data[:at] + opened * random.choice((2, 100, 5000)) + data[at:]


def swap_lines(data: bytearray, random: random.Random, other: bytes) -> bytearray:
    """Replace lines by others of the file, or of another file."""
    lines, others = bytes(data).splitlines(keepends=True), other.splitlines(keepends=True)
    for _ in range(random.choice((1, 3))):
        if lines:
            at = random.randrange(len(lines))
            lines[at] = random.choice([random.choice(lines), random.choice(others or lines)])
    return bytearray(b"".join(lines))


MUTATIONS: tuple[Callable[[bytearray, random.Random, bytes], bytearray], ...] = (
    flip_bits, flip_bits, set_bytes, truncate, cut_out, splice, double, number, number, near_number,
    word, word, nest, swap_lines,
)  # fmt: skip


def damaged(data: bytes, random: random.Random, other: bytes) -> bytes:
    """Return a file's bytes, damaged in one or several ways.

    Args:
        data: the good file.
        random: determines the damage.
        other: another file of the kind.
    """
    result = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        result = random.choice(MUTATIONS)(result, random, other)[:MOST_BYTES]
    return bytes(result)
