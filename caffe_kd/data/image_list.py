"""Image files that a text file lists, with their labels."""

from __future__ import annotations

import io
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from ..core.errors import CaffeKDError, DataError, MissingFile
from ..core.files import find, read_bytes
from ..core.memory import growth_problem
from .image_file import MOST_BYTES, check_size, decode_image
from .source import SampleSource

_LINE_BYTES = 25  # memory of a line beside its text, the arrays growing by an eighth
_LINE = re.compile(r"(.*\S)\s+(-?\d{1,9})\s*")


class Paths(Sequence[str]):
    """The paths of a list, kept as the bytes of its file, so that millions take little memory."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._starts = array("q")
        self._lengths = array("i")

    def add(self, start: int, length: int) -> None:
        """Add the path at a position of the content."""
        self._starts.append(start)
        self._lengths.append(length)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        start = self._starts[index]
        path = self._content[start : start + self._lengths[index]]
        return path.decode("utf-8", "surrogateescape")


@dataclass
class ImageList:
    """The lines of a list: paths, labels int [N], and the lines' numbers in the file from 1."""

    paths: Sequence[str]
    labels: np.ndarray
    numbers: np.ndarray


def read_list(path: Path) -> ImageList:
    """Return the lines "path label" of a list file; the label comes after the last whitespace.

    Raises:
        DataError: a line has no label, or the file has no lines.
        ParseError: the file cannot be read.
    """
    content = read_bytes(path, MOST_BYTES)
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    paths, labels, numbers = Paths(content), array("i"), array("i")
    at = 0
    for number, line in enumerate(io.BytesIO(content), 1):
        begin, at = at, at + len(line)
        text = line.decode("utf-8", "surrogateescape").rstrip("\n")
        if not text.strip():
            continue
        parts = _LINE.fullmatch(text)
        if parts is None:
            raise DataError(
                f'a line is "path label", the label an integer. Received: "{text}"',
                f"{path}:{number}",
            )
        paths.add(begin, len(parts[1].encode("utf-8", "surrogateescape")))
        labels.append(int(parts[2]))
        numbers.append(number)
        if problem := growth_problem(len(content) + _LINE_BYTES * len(paths), len(content)):
            raise DataError(f"it lists too many images: {problem}", str(path))
    if not paths:
        raise DataError("the list has no lines", str(path))
    return ImageList(paths, np.frombuffer(labels, np.int32), np.frombuffer(numbers, np.int32))


class ImageListSamples(SampleSource):
    """Image files, decoded each time they are read.

    Args:
        lines: the paths and labels.
        name: the list file.
        root: put before each path; the result is looked up from the working directory, then
            beside the list.
        color: three channels in the order BGR, else one of grey.
        size: height and width to resize each image to; None: as it is.
        keep_files: keep the files' bytes in memory, however many.

    Raises:
        DataError: the size is absurd.
    """

    encoded = True

    def __init__(
        self,
        lines: ImageList,
        name: Path,
        root: str = "",
        color: bool = True,
        size: tuple[int, int] | None = None,
        keep_files: bool = False,
    ) -> None:
        self.name = str(name)
        self._lines = lines
        self._root = root
        self._color = color
        self._size = size
        self._files: dict[int, bytes] | None = {} if keep_files else None
        if size is not None:
            check_size(*size)

    def __len__(self) -> int:
        return len(self._lines.paths)

    def read(self, index: int) -> tuple[np.ndarray, int]:
        """Return image uint8 [C, H, W] and label.

        Raises:
            MissingFile: the file is not there.
            DataError: it cannot be read or is not an image. The message names it and its line.
        """
        path = find(self._root + self._lines.paths[index], beside=self.name)
        try:
            image = decode_image(self._bytes(index, path), str(path), self._color, self._size)
        except MissingFile as error:
            raise MissingFile(f"Could not load {error}", self.where(index)) from error
        except CaffeKDError as error:
            raise DataError(f"Could not load {error}", self.where(index)) from error
        return image, int(self._lines.labels[index])

    def label(self, index: int) -> int:
        """Return the label."""
        return int(self._lines.labels[index])

    def where(self, index: int) -> str:
        """Return the location of an image in the list, as file:line."""
        return f"{self.name}:{self._lines.numbers[index]}"

    def _bytes(self, index: int, path: Path) -> bytes:
        if self._files is None:
            return read_bytes(path, MOST_BYTES)
        if index not in self._files:
            self._files[index] = read_bytes(path, MOST_BYTES)
        return self._files[index]
