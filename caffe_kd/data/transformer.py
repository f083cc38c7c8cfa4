"""From stored pixels to a net's input: mean, scale, crop, mirror and jitter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from google.protobuf.message import DecodeError

from ..core.errors import DataError
from ..core.files import read_bytes
from ..proto import caffe_pb2

_MOST_MEAN_BYTES = 256 << 20  # a mean of 8000 x 8000 x 3 values fits


class Transformer:
    """Turns images into float32 blobs as ``transform_param`` says.

        y = (x - mean) * scale, cut to crop_size x crop_size, mirrored left to right, shifted

    Args:
        transform_param: a TransformationParameter message.
        phase_is_train: crops are random per sample in TRAIN, central (rounded down) in TEST.
            The mirror is random per sample in both, as in Caffe. The shift by up to
            ``jitter`` pixels is random per sample in TRAIN, and none in TEST.
        resolve: finds ``mean_file`` where it is a relative path.

    Attributes:
        mean: the mean image [C, H, W], the mean values [1 or C, 1, 1], or None.

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
        self._jitter = int(transform_param.jitter) if phase_is_train else 0
        self.mean: np.ndarray | None = None
        self._mean_name = "mean_value"
        values = list(transform_param.mean_value)
        if transform_param.HasField("mean_file"):
            if values:
                raise DataError(
                    "Cannot specify mean_file and mean_value at the same time. Received: "
                    f"mean_file: '{transform_param.mean_file}' and {len(values)} mean_value."
                )
            path = resolve(transform_param.mean_file)
            self.mean, self._mean_name = _read_mean(path), str(path)
        elif values:
            self.mean = np.array(values, np.float32).reshape(-1, 1, 1)

    @property
    def deterministic(self) -> bool:
        """Whether a sample always gives the same output: no mirror, jitter or random crop."""
        return not (self._mirror or self._random_crop or self._jitter)

    @property
    def only_scales(self) -> bool:
        """Whether it only scales, which takes almost no time."""
        return self.mean is None and not (self._crop or self._mirror or self._jitter)

    def output_shape(self, sample_shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Return the shape [C, h, w] that a sample of shape [C, H, W] gets.

        Raises:
            DataError: the sample is smaller than the crop, the mean has another shape, or the
                jitter could move an image out of the frame.
        """
        channels, height, width = sample_shape
        if self._crop > min(height, width):
            raise DataError(
                f"crop_size is larger than the image. Received: crop_size: {self._crop}, an image "
                f"of {height} x {width}. Expected: crop_size <= {min(height, width)}."
            )
        self._check_mean(sample_shape)
        shape = channels, self._crop or height, self._crop or width
        if self._jitter >= min(shape[1:]):
            raise DataError(
                "jitter must be smaller than the image that it shifts. Received: "
                f"jitter: {self._jitter}, an image of {shape[1]} x {shape[2]}."
            )
        return shape

    def _check_mean(self, sample_shape: tuple[int, ...]) -> None:
        if self.mean is None or self.mean.shape == sample_shape:
            return
        channels = sample_shape[0]
        if self._mean_name != "mean_value":
            raise DataError(
                f"the mean does not have the shape of the images. Received: {self.mean.shape}, "
                f"images of {tuple(sample_shape)} (channels, height, width).",
                self._mean_name,
            )
        if len(self.mean) not in (1, channels):
            raise DataError(
                f"Specify either 1 mean_value or as many as channels: {channels}. "
                f"Received: {len(self.mean)}."
            )

    def __call__(
        self, images: np.ndarray | Sequence[np.ndarray], generator: torch.Generator
    ) -> torch.Tensor:
        """Transform images to float32 [N, C, h, w].

        Args:
            images: uint8 (0 to 255) or float32 pixels [N, C, H, W]; or, where a crop_size makes
                their sizes equal, [C, H, W] for each image.
            generator: source of the random crops, mirrors and shifts; untouched when deterministic.

        Raises:
            DataError: the images do not fit the crop or the mean.
        """
        if isinstance(images, np.ndarray):
            windows, mean = self._cut_same_size(images, generator)
        else:
            windows, mean = self._cut_each(images, generator), self.mean
        pixels = torch.from_numpy(_writable(windows))
        result = torch.empty(pixels.shape, dtype=torch.float32)
        if mean is None:
            torch.mul(pixels, self._scale, out=result)
        else:
            torch.sub(pixels, torch.from_numpy(_writable(mean)), out=result)
            if self._scale != 1.0:
                result.mul_(self._scale)
        if self._mirror:
            chosen = torch.randint(2, (len(images),), generator=generator).bool()
            result[chosen] = result[chosen].flip(3)
        return _shifted(result, self._jitter, generator) if self._jitter else result

    def _cut_same_size(
        self, images: np.ndarray, generator: torch.Generator
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the windows of images of one size, and the mean under them."""
        count, *shape = images.shape
        _, height, width = self.output_shape(tuple(shape))
        rows, columns = self._corners(count, shape[1] - height, shape[2] - width, generator)
        windows = _cut(images, rows, columns, height, width)
        if self.mean is None or self.mean.shape[1:] == (1, 1):
            return windows, self.mean
        mean = np.broadcast_to(self.mean, (len(rows), *self.mean.shape))
        return windows, _cut(mean, rows, columns, height, width)

    def _cut_each(self, images: Sequence[np.ndarray], generator: torch.Generator) -> np.ndarray:
        """Return the windows of images of several sizes; a mean image would fit one size only."""
        windows = []
        for image in images:
            _, height, width = self.output_shape(image.shape)
            free = image.shape[1] - height, image.shape[2] - width
            rows, columns = self._corners(1, *free, generator)
            windows.append(_cut(image[None], rows, columns, height, width)[0])
        if not self._crop:
            sizes = " and ".join(sorted({f"{i.shape[1]} x {i.shape[2]}" for i in images})[:2])
            raise DataError(
                "the images of a batch must have one size, unless a crop_size cuts one out. "
                f"Received: {sizes}."
            )
        return np.stack(windows)

    def _corners(
        self, count: int, free_height: int, free_width: int, generator: torch.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return first row and column of each sample's crop, or one of each for all samples."""
        if not self._random_crop:
            return np.array([free_height // 2]), np.array([free_width // 2])
        return (
            torch.randint(free_height + 1, (count,), generator=generator).numpy(),
            torch.randint(free_width + 1, (count,), generator=generator).numpy(),
        )


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


def _shifted(images: torch.Tensor, most: int, generator: torch.Generator) -> torch.Tensor:
    """Shift each image by -most to most pixels down and across; zeros move in."""
    count, _, height, width = images.shape
    rows, columns = torch.randint(2 * most + 1, (2, count), generator=generator).numpy()
    padded = torch.nn.functional.pad(images, (most, most, most, most)).numpy()
    return torch.from_numpy(_cut(padded, rows, columns, height, width))


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
