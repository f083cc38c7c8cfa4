"""Sources of samples: images with integer labels, by position."""

from __future__ import annotations

import abc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..core.errors import DataError
from ..core.memory import machine_bytes
from ..proto import caffe_pb2

CACHE_BYTES = 2 << 30  # limit of memory for cached samples, or a quarter of all

DIGESTED_IMAGES, DIGESTED_LABELS = 64, 20_000  # of samples that are not in memory

FolderLookup = Callable[[str], Path]
"""Turns a path as written in a prototxt into the path of a file or folder."""


def spread(count: int, most: int) -> list[int]:
    """Return the numbers of at most ``most`` of ``count`` samples, evenly spread."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).astype(int).tolist()))


def digest(*arrays: np.ndarray) -> str:
    """Return the checksum of some arrays' values and shapes."""
    value = 0
    for array in arrays:
        value = zlib.crc32(f"{array.dtype} {array.shape}".encode(), value)
        value = zlib.crc32(np.ascontiguousarray(array).data, value)
    return f"{value:08x}"


class SampleSource(abc.ABC):
    """Samples by position: image [C, H, W] and integer label.

    Attributes:
        name: path of the samples, for messages.
        encoded: whether reading a sample means decompressing a PNG or JPEG.
    """

    name: str
    encoded: bool = False

    @abc.abstractmethod
    def __len__(self) -> int:
        """Return the number of samples, at least 1."""

    @abc.abstractmethod
    def read(self, index: int) -> tuple[np.ndarray, int]:
        """Return image [C, H, W], uint8 (0 to 255) or float32 (Datum.float_data), and label.

        Raises:
            DataError: the sample is damaged.
        """

    def label(self, index: int) -> int:
        """Return the label of a sample, where that is quicker than reading it whole.

        Raises:
            DataError: the sample is damaged.
        """
        return self.read(index)[1]

    def datum(self, index: int) -> bytes:
        """Return a sample as a database holds it, a serialised Datum.

        Raises:
            DataError: the sample is damaged.
        """
        image, label = self.read(index)
        channels, height, width = image.shape
        datum = caffe_pb2.Datum(channels=channels, height=height, width=width, label=label)
        if image.dtype == np.uint8:
            datum.data = image.tobytes()
        else:
            datum.float_data.extend(image.ravel().tolist())
        return bytes(datum.SerializeToString())

    def digests(self) -> dict[str, str]:
        """Return checksums that identify these samples: of the images and of the labels.

        Raises:
            DataError: a sample is damaged.
        """
        images = [self.read(index)[0] for index in spread(len(self), DIGESTED_IMAGES)]
        labels = [self.label(index) for index in spread(len(self), DIGESTED_LABELS)]
        return {"images": digest(*images), "labels": digest(np.array(labels, np.int64))}

    def batch(
        self, indices: np.ndarray | slice
    ) -> tuple[np.ndarray | list[np.ndarray], np.ndarray]:
        """Return images and labels int64 [N] of some samples.

        The images are [N, C, H, W], or a list of [C, H, W] where they differ in height or width.

        Raises:
            DataError: a sample is damaged, or differs from the first in channels or type.
        """
        if isinstance(indices, slice):
            indices = np.arange(len(self))[indices]
        samples = [self.read(int(index)) for index in indices]
        images = [image for image, _ in samples]
        first = images[0]
        for index, image in zip(indices, images, strict=True):
            if len(image) != len(first) or image.dtype != first.dtype:
                raise DataError(
                    "the samples of a batch must have one number of channels and one type. "
                    f"Received: {image.dtype} {image.shape} for sample {index}, "
                    f"{first.dtype} {first.shape} for sample {indices[0]}.",
                    self.name,
                )
        labels = np.array([label for _, label in samples], np.int64)
        same_shape = all(image.shape == first.shape for image in images)
        return np.stack(images) if same_shape else images, labels


class MemorySamples(SampleSource):
    """Samples in memory: images uint8 or float32 [N, C, H, W], labels int64 [N]."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, name: str) -> None:
        if images.ndim != 4 or labels.shape != images.shape[:1] or not len(labels):
            raise DataError(
                "images [N, C, H, W] and labels [N] of at least one sample are needed. "
                f"Received: {images.shape} and {labels.shape}.",
                name,
            )
        self.images = images
        self.labels = labels.astype(np.int64, copy=False)
        self.name = name

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> tuple[np.ndarray, int]:
        """Return image [C, H, W] and label."""
        return self.images[index], int(self.labels[index])

    def digests(self) -> dict[str, str]:
        """Return checksums of all images and all labels."""
        return {"images": digest(self.images), "labels": digest(self.labels)}

    def batch(self, indices: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray]:
        """Return images [N, C, H, W] and labels [N]; a slice copies nothing."""
        return self.images[indices], self.labels[indices]


class CachedSamples(SampleSource):
    """Samples that are slow to read, cached in memory after the first read while there is room.

    Args:
        source: the samples.
        limit_bytes: how much memory their pixels may take.
    """

    def __init__(self, source: SampleSource, limit_bytes: int) -> None:
        self.name = source.name
        self.encoded = source.encoded
        self._source = source
        self._room = limit_bytes
        self._kept: dict[int, tuple[np.ndarray, int]] = {}

    def __len__(self) -> int:
        return len(self._source)

    def label(self, index: int) -> int:
        """Return the label."""
        return self._source.label(index)

    def read(self, index: int) -> tuple[np.ndarray, int]:
        """Return image [C, H, W] and label."""
        sample = self._kept.get(index)
        if sample is None:
            sample = self._source.read(index)
            if sample[0].nbytes <= self._room:
                self._room -= sample[0].nbytes
                self._kept[index] = sample
        return sample


def into_memory(source: SampleSource, limit_bytes: int | None = None) -> SampleSource:
    """Keep samples in memory as bytes, within a limit.

    Raw ones of one shape and type that fit are read at once. Encoded ones are decoded when they are
    first asked for and kept until the limit is reached, so that where all fit the second pass
    decodes nothing.

    Args:
        source: the samples.
        limit_bytes: what their pixels may take; None: 2 GB, and no more than a quarter of the
            memory there is.

    Returns:
        The samples in memory, else ``source`` itself.

    Raises:
        DataError: a sample is damaged.
    """
    if isinstance(source, MemorySamples):
        return source
    if limit_bytes is None:
        limit_bytes = min(CACHE_BYTES, (machine_bytes() or 4 * CACHE_BYTES) // 4)
    if source.encoded:
        return CachedSamples(source, limit_bytes)
    first, _ = source.read(0)
    if first.nbytes * len(source) > limit_bytes:
        return source
    images = np.empty((len(source), *first.shape), first.dtype)
    labels = np.empty(len(source), np.int64)
    for index in range(len(source)):
        image, labels[index] = source.read(index)
        if image.shape != first.shape or image.dtype != first.dtype:
            return source
        images[index] = image
    return MemorySamples(images, labels, source.name)
