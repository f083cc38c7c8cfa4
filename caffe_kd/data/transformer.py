"""From stored pixels to a net's input: mean, scale, crop and mirror."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from google.protobuf.message import DecodeError

from ..errors import DataError
from ..files import read_bytes
from ..proto import caffe_pb2

_MOST_MEAN_BYTES = 256 << 20  # a mean of 8000 x 8000 x 3 numbers still fits


class Transformer:
    """Turns images into float32 blobs as ``transform_param`` says.

        y = (x - mean) * scale, cut to crop_size x crop_size, mirrored left to right

    Args:
        transform_param: a TransformationParameter message.
        phase_is_train: crops are random per record in TRAIN, central (rounded down) in TEST.
            The mirror is random per record in both, as in the original.
        resolve: finds ``mean_file`` where it is a relative path.

    Raises:
        DataError: mean_file and mean_value are both given, or the mean file is not a BlobProto.
        ParseError: the mean file cannot be read.
    """

    def __init__(
        self, transform_param: Any, phase_is_train: bool, resolve: Callable[[str], Path]
    ) -> None:
        self._scale = float(transform_param.scale)
        self._crop = int(transform_param.crop_size)
        self._mirror = bool(transform_param.mirror)
        self._random_crop = phase_is_train and self._crop > 0
        self._mean: np.ndarray | None = None
        self._mean_name = "mean_value"
        values = list(transform_param.mean_value)
        if transform_param.HasField("mean_file"):
            if values:
                raise DataError(
                    "Cannot specify mean_file and mean_value at the same time. Received: "
                    f"mean_file: '{transform_param.mean_file}' and {len(values)} mean_value."
                )
            path = resolve(transform_param.mean_file)
            self._mean, self._mean_name = _read_mean(path), str(path)
        elif values:
            self._mean = np.array(values, np.float32).reshape(-1, 1, 1)

    @property
    def deterministic(self) -> bool:
        """Whether a record always gives the same answer: no mirror and no random crop."""
        return not (self._mirror or self._random_crop)

    def output_shape(self, record_shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Return the shape [C, h, w] that a record of shape [C, H, W] gets.

        Raises:
            DataError: the record is smaller than the crop, or the mean has another shape.
        """
        channels, height, width = record_shape
        if self._crop > min(height, width):
            raise DataError(
                f"crop_size is larger than the image. Received: crop_size: {self._crop}, an image "
                f"of {height} x {width}. Expected: crop_size <= {min(height, width)}."
            )
        self._check_mean(record_shape)
        return channels, self._crop or height, self._crop or width

    def _check_mean(self, record_shape: tuple[int, ...]) -> None:
        if self._mean is None or self._mean.shape == record_shape:
            return
        channels = record_shape[0]
        if self._mean_name != "mean_value":
            raise DataError(
                f"the mean does not have the shape of the images. Received: {self._mean.shape}, "
                f"images of {tuple(record_shape)} (channels, height, width).",
                self._mean_name,
            )
        if len(self._mean) not in (1, channels):
            raise DataError(
                f"Specify either 1 mean_value or as many as channels: {channels}. "
                f"Received: {len(self._mean)}."
            )

    def __call__(self, images: np.ndarray, generator: torch.Generator) -> torch.Tensor:
        """Transform uint8 or float32 [N, C, H, W] to float32 [N, C, h, w].

        Args:
            images: pixels, 0 to 255 where they are uint8.
            generator: source of the random crops and mirrors; untouched when deterministic.

        Raises:
            DataError: the images do not fit the crop or the mean.
        """
        count, *shape = images.shape
        _, height, width = self.output_shape(tuple(shape))
        rows, columns = self._corners(count, shape[1] - height, shape[2] - width, generator)
        pixels = torch.from_numpy(_writable(_cut(images, rows, columns, height, width)))
        result = torch.empty(pixels.shape, dtype=torch.float32)
        if self._mean is None:
            torch.mul(pixels, self._scale, out=result)
        else:
            torch.sub(pixels, self._mean_at(count, rows, columns, height, width), out=result)
            if self._scale != 1.0:
                result.mul_(self._scale)
        if self._mirror:
            chosen = torch.randint(2, (count,), generator=generator).bool()
            result[chosen] = result[chosen].flip(3)
        return result

    def _corners(
        self, count: int, free_height: int, free_width: int, generator: torch.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return first row and column of each record's crop, or one of each for all records."""
        if not self._random_crop:
            return np.array([free_height // 2]), np.array([free_width // 2])
        return (
            torch.randint(free_height + 1, (count,), generator=generator).numpy(),
            torch.randint(free_width + 1, (count,), generator=generator).numpy(),
        )

    def _mean_at(
        self, count: int, rows: np.ndarray, columns: np.ndarray, height: int, width: int
    ) -> torch.Tensor:
        """Return the mean under the crops, in a shape that fits [N, C, h, w]."""
        assert self._mean is not None
        mean = self._mean[None]
        if mean.shape[2:] != (1, 1):
            mean = np.broadcast_to(mean, (len(rows), *self._mean.shape))
            mean = _cut(mean, rows, columns, height, width)
        return torch.from_numpy(_writable(mean))


def _cut(
    images: np.ndarray, rows: np.ndarray, columns: np.ndarray, height: int, width: int
) -> np.ndarray:
    """Cut a window out of each image; a single corner serves all and copies nothing."""
    if len(rows) == 1:
        row, column = rows[0], columns[0]
        return images[:, :, row : row + height, column : column + width]
    windows = np.empty((*images.shape[:2], height, width), images.dtype)
    for window, image, row, column in zip(windows, images, rows, columns, strict=True):
        window[:] = image[:, row : row + height, column : column + width]
    return windows


def _writable(values: np.ndarray) -> np.ndarray:
    """Return an array that torch takes without a warning; it is never written to."""
    return values if values.flags.writeable else values.copy()


def _read_mean(path: Path) -> np.ndarray:
    """Return the mean image [C, H, W] of a binaryproto file."""
    try:
        blob = caffe_pb2.BlobProto.FromString(read_bytes(path, _MOST_MEAN_BYTES))
    except DecodeError as error:
        raise DataError(
            "the mean_file is not a BlobProto, or is truncated. Expected: a binaryproto as "
            "compute_image_mean writes it.",
            str(path),
        ) from error
    legacy = (blob.num, blob.channels, blob.height, blob.width)
    dims = tuple(blob.shape.dim) if blob.HasField("shape") else legacy
    values = np.array(blob.double_data or blob.data, np.float32)
    shape = dims[-3:]
    if len(shape) < 3 or min(dims) < 1 or np.prod(dims, dtype=object) != np.prod(shape):
        raise DataError(f"the mean must be one image. Received: shape {dims}.", str(path))
    if np.prod(shape, dtype=object) != values.size:
        raise DataError(
            f"the mean's data does not fill its shape. Received: {values.size} numbers. "
            f"Expected: {' x '.join(map(str, shape))}.",
            str(path),
        )
    return values.reshape(shape)
