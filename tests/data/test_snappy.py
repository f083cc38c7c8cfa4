from __future__ import annotations

import pytest

from caffe_kd.data.snappy import decompress, decompressed_size

# By the format: the length, then literals and copies.
LITERAL = bytes([5, 4 << 2]) + b"hello"
LONG_LITERAL = bytes([70, 60 << 2, 69]) + bytes(range(70))
NEAR_COPY = bytes([8, 3 << 2]) + b"abcd" + bytes([0 << 2 | 1, 4])
FAR_COPY = bytes([10, 3 << 2]) + b"abcd" + bytes([5 << 2 | 2, 4, 0])  # goes on in what it writes
FARTHEST_COPY = bytes([7, 3 << 2]) + b"abcd" + bytes([2 << 2 | 3, 3, 0, 0, 0])


@pytest.mark.parametrize(
    ("block", "wanted"),
    [
        (bytes([0]), b""),
        (LITERAL, b"hello"),
        (LONG_LITERAL, bytes(range(70))),
        (NEAR_COPY, b"abcdabcd"),
        (FAR_COPY, b"abcdabcdab"),
        (FARTHEST_COPY, b"abcdbcd"),
    ],
)
def test_decompress_gives_what_the_format_says(block: bytes, wanted: bytes) -> None:
    assert decompress(block) == wanted
    assert decompressed_size(block) == len(wanted)
    assert decompress(block, most=2) == wanted[:2]


def test_decompress_of_cut_off_blocks_is_an_error() -> None:
    for block in (LITERAL, LONG_LITERAL, NEAR_COPY, FAR_COPY, FARTHEST_COPY):
        for end in range(len(block)):
            with pytest.raises((IndexError, ValueError)):
                decompress(block[:end])


def test_decompress_refuses_copies_from_before_the_block() -> None:
    for distance in (0, 5):
        with pytest.raises(ValueError, match="begins before"):
            decompress(NEAR_COPY[:-1] + bytes([distance]))


def test_decompress_refuses_a_size_that_nothing_expands_to() -> None:
    with pytest.raises(ValueError, match="state a size of 1073741824"):
        decompress(b"\x80\x80\x80\x80\x04" + LITERAL)
    with pytest.raises(ValueError, match="5 bytes result, 3 are stated"):
        decompress(b"\x03" + LITERAL[1:])
