"""Windows of images, as R-CNN lists them and feeds them to a net."""

from __future__ import annotations

import io
import math
import warnings
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..core.errors import DataError
from ..core.files import read_bytes
from ..core.memory import growth_problem
from .image_file import resize_image
from .image_list import ImageList, Paths

_MOST_BYTES = 2 << 30
_AT_ONCE = 10_000  # windows
_PART_BYTES = 700  # memory per window read at once, beside its values
_LINE_BYTES = 25  # and a path and its number
_FIELDS = 6  # class, overlap, x1, y1, x2, y2


@dataclass
class Windows:
    """The windows of a file that are objects or background, N of them.

    Attributes:
        images: the images, with their lines' numbers.
        image: the image of each window, int32 [N].
        label: its class, 0 for background, int32 [N].
        box: its first and last column and row, x1, y1, x2, y2, int32 [N, 4].
    """

    images: ImageList
    image: np.ndarray
    label: np.ndarray
    box: np.ndarray


def read_windows(path: Path, fg_threshold: float, bg_threshold: float) -> Windows:
    """Read a window file.

    For each image it has the lines ``# image_index``, path, channels, height, width, number of
    windows, and for each window ``class overlap x1 y1 x2 y2``. An overlap with an object of at
    least ``fg_threshold`` makes the window one, below ``bg_threshold`` background; others are left
    out.

    Raises:
        DataError: a line is malformed; the message names it.
        ParseError: the file cannot be read.

    Source: Caffe's WindowDataLayer.
    """
    content = read_bytes(path, _MOST_BYTES)
    reader = _Reader(io.BytesIO(content), str(path))
    paths, numbers = Paths(content), array("i")
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    while reader.next_image(len(paths)):
        line = reader.line()
        paths.add(reader.start, len(line.encode("utf-8", "surrogateescape")))
        numbers.append(reader.number)
        channels, _, _, count = (reader.whole_number() for _ in range(4))
        if channels != 3:
            reader.fail(f"images are read in colour, with 3 channels. Received: {channels}")
        for rows in reader.windows(count):
            overlap = rows[:, 1].astype(np.float32)  # as the thresholds are
            is_object, is_background = overlap >= fg_threshold, overlap < bg_threshold
            if (rows[is_object, 0] <= 0).any():
                reader.fail("the class of a foreground window must be greater than 0")
            used = is_object | is_background
            labels = np.where(is_object, rows[:, 0], 0)[used].astype(np.int32)
            image = np.full(len(labels), len(paths) - 1, np.int32)
            parts.append((image, labels, rows[used, 2:].astype(np.int32)))
        taken = len(content) + _PART_BYTES * len(parts) + _LINE_BYTES * len(paths)
        if problem := growth_problem(taken, len(content)):
            raise DataError(f"it lists too many images: {problem}", str(path))
    if not paths:
        raise DataError("Window file is empty", str(path))
    images = ImageList(paths, np.zeros(len(paths), np.int32), np.frombuffer(numbers, np.int32))
    if not parts:
        none = np.empty(0, np.int32)
        return Windows(images, none, none, none.reshape(0, 4))
    image, label, box = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Windows(images, image, label, box)


class _Reader:
    """Reads a window file line by line."""

    def __init__(self, file: io.BytesIO, name: str) -> None:
        self._file = file
        self._name = name
        self.number = 0  # of the line read last
        self.start = 0  # where it begins

    def fail(self, message: str) -> None:
        raise DataError(message, f"{self._name}:{self.number}")

    def next_image(self, index: int) -> bool:
        """Read the line that begins an image; return whether there is one."""
        while line := self._file.readline():
            self.number += 1
            words = line.split()
            if words and words != [b"#", b"%d" % index]:
                self.fail(
                    f'an image begins with "# {index}", images being counted from 0. Received: '
                    f'"{_shown(line)}"'
                )
            if words:
                return True
        return False

    def line(self) -> str:
        at = self._file.tell()
        line = self._file.readline()
        self.start = at + len(line) - len(line.lstrip())
        self.number += 1
        if not line.strip():
            self.fail("the file ends, or a line is empty, within an image")
        return line.strip().decode("utf-8", "surrogateescape")

    def whole_number(self) -> int:
        word = self.line()
        if not word.isascii() or not word.isdecimal() or len(word) > 9:
            self.fail(f'an integer is expected. Received: "{word[:80]}"')
        return int(word)

    def windows(self, count: int) -> Iterator[np.ndarray]:
        """Yield the next windows, some at a time, as float64 [N, 6]."""
        for first in range(0, count, _AT_ONCE):
            yield self._some_windows(min(_AT_ONCE, count - first), first, count)

    def _some_windows(self, count: int, before: int, announced: int) -> np.ndarray:
        lines: list[bytes] = []
        for _ in range(count):  # as many as there are, whatever number is stated
            line = self._file.readline()
            if not line:
                self.fail(f"the file ends after {before + len(lines)} of {announced} windows")
            lines.append(line)
        rows = _numbers(b"".join(lines))
        if rows is None or rows.size != _FIELDS * count:
            for line in lines:
                self.number += 1
                row = _numbers(line)
                if row is None or row.size != _FIELDS:
                    self.fail(
                        f'a window is "class overlap x1 y1 x2 y2". Received: "{_shown(line)}"'
                    )
        assert rows is not None
        self.number += count
        return rows.reshape(count, _FIELDS)


def _numbers(text: bytes) -> np.ndarray | None:
    """Return the numbers of a text, None where a word is not a number or exceeds 31 bits."""
    if not text.strip():
        return np.empty(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # instead of stopping silently
        try:
            values = np.fromstring(text.decode("ascii"), np.float64, sep=" ")
        except (ValueError, DeprecationWarning):
            return None
    return values if (np.abs(values) < 2**31).all() else None


def _shown(line: bytes) -> str:
    return line.strip()[:80].decode(errors="replace")


# ---- cutting out


class Cut(NamedTuple):
    """A window as fed to the net: its pixels, uint8 [C, h, w], and their position in the crop."""

    pixels: np.ndarray
    row: int
    column: int


def cut_window(
    image: np.ndarray, box: np.ndarray, crop: int, context: int, square: bool, mirror: bool
) -> Cut | None:
    """Resize a window of an image, with its surroundings, to the size of the crop.

    Args:
        image: uint8 [C, H, W].
        box: first and last column and row: x1, y1, x2, y2.
        crop: side of the crop, in pixels.
        context: how many pixels of the crop, on each side, show surroundings; what lies outside of
            the image stays empty.
        square: widen the shorter side of the window to the longer one, instead of stretching.
        mirror: flip left and right.

    Returns:
        The resized window; None where the window is not in the image.

    Source: Caffe's WindowDataLayer, down to the rounding in float32.
    """
    x1, y1, x2, y2 = (int(value) for value in box)
    height = width = crop
    row = column = 0
    if context or square:
        x1, x2, y1, y2 = _widened(
            x1, x2, y1, y2, np.float32(crop) / np.float32(crop - 2 * context), square
        )
        across = _Side.of(x1, x2, image.shape[2], crop)
        down = _Side.of(y1, y2, image.shape[1], crop)
        x1, x2, y1, y2 = across.first, across.last, down.first, down.last
        row, column = down.before, across.after if mirror else across.before
        height, width = min(down.length, crop - row), min(across.length, crop - column)
    inside = 0 <= x1 <= x2 < image.shape[2] and 0 <= y1 <= y2 < image.shape[1]
    if not inside or min(height, width) < 1:
        return None
    pixels = resize_image(image[:, y1 : y2 + 1, x1 : x2 + 1], height, width)
    return Cut(pixels[:, :, ::-1] if mirror else pixels, row, column)


def _widened(
    x1: int, x2: int, y1: int, y2: int, scale: np.float32, square: bool
) -> tuple[int, int, int, int]:
    """Return first and last column and row of a window with its surroundings."""
    half_width, half_height = np.float32((x2 - x1 + 1) / 2), np.float32((y2 - y1 + 1) / 2)
    middle_x, middle_y = np.float32(x1) + half_width, np.float32(y1) + half_height
    if square:
        half_width = half_height = max(half_width, half_height)
    return (
        _round(middle_x - half_width * scale),
        _round(middle_x + half_width * scale),
        _round(middle_y - half_height * scale),
        _round(middle_y + half_height * scale),
    )


class _Side(NamedTuple):
    """A widened window along one axis: its part in the image, and where that is in the crop."""

    first: int
    last: int
    length: int  # in the crop
    before: int  # empty pixels of the crop
    after: int

    @classmethod
    def of(cls, first: int, last: int, size: int, crop: int) -> _Side:
        before, after = max(0, -first), max(0, last - size + 1)
        scale = np.float32(crop) / np.float32(last - first + 1)
        first, last = first + before, last - after
        shown = (_round(np.float32(n) * scale) for n in (last - first + 1, before, after))
        return cls(first, last, *shown)


def _round(value: np.float32) -> int:
    """Round to the nearest integer, halves away from 0, as in C."""
    return int(math.copysign(math.floor(abs(float(value)) + 0.5), value))
