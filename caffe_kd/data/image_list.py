"""Image files that a text file lists, with their labels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import CaffeKDError, DataError, MissingFile
from ..files import find, read_bytes
from .image_file import MOST_BYTES, check_size, decode_image
from .source import RecordSource

_LINE = re.compile(r"(.*\S)\s+(-?\d{1,9})\s*")


@dataclass
class ImageList:
    """The lines of a list: paths, labels int64 [N], and the lines' numbers in the file from 1."""

    paths: list[str]
    labels: np.ndarray
    numbers: np.ndarray


def read_list(path: Path) -> ImageList:
    """Return the lines "path label" of a list file; the label stands after the last white space.

    Raises:
        DataError: a line has no label, or the file has no lines.
        ParseError: the file cannot be read.
    """
    paths: list[str] = []
    labels: list[int] = []
    numbers: list[int] = []
    text = read_bytes(path, MOST_BYTES).decode("utf-8", "surrogateescape")
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        parts = _LINE.fullmatch(line)
        if parts is None:
            raise DataError(
                f'a line is "path label", the label a whole number. Received: "{line}"',
                f"{path}:{number}",
            )
        paths.append(parts[1])
        labels.append(int(parts[2]))
        numbers.append(number)
    if not paths:
        raise DataError("the list has no lines", str(path))
    return ImageList(paths, np.array(labels, np.int64), np.array(numbers, np.int64))


class ImageRecords(RecordSource):
    """Image files, decoded each time they are read.

    Args:
        lines: the paths and labels.
        name: the file that they stand in.
        root: stands before each path as it is; what results is looked up from the working
            directory, then beside the list.
        color: three channels in the order BGR, else one of grey.
        size: height and width to bring each image to; None: as it is.
        keep_files: keep what the files hold in memory, however much it is.

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
            DataError: it cannot be read or is no image. The message names it and its line.
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
        """Return the place of an image in the list, as file:line."""
        return f"{self.name}:{self._lines.numbers[index]}"

    def _bytes(self, index: int, path: Path) -> bytes:
        if self._files is None:
            return read_bytes(path, MOST_BYTES)
        if index not in self._files:
            self._files[index] = read_bytes(path, MOST_BYTES)
        return self._files[index]
