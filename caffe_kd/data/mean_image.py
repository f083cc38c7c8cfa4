"""The mean image of a data source, and the file that ``mean_file`` reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..core.errors import DataError
from ..core.files import write_atomically
from ..proto import caffe_pb2 as pb
from .source import SampleSource


def mean_of(samples: SampleSource, seen: Callable[[int], None] = lambda _: None) -> np.ndarray:
    """Return the mean image, float32 [C, H, W]; encoded images are decoded as they are stored.

    Args:
        samples: the images.
        seen: is called after each sample with the number of samples so far.

    Raises:
        DataError: a sample is damaged, or has another shape than the first.

    Source: Caffe's sums are float32 and add the samples in order, and so do these.
    """
    total = np.zeros(samples.read(0)[0].shape, np.float32)
    for index in range(len(samples)):
        image, _ = samples.read(index)
        if image.shape != total.shape:
            raise DataError(
                f"Incorrect data field size: sample {index} is {image.shape} (channels, height, "
                f"width), the first is {total.shape}. A mean image needs images of one size; "
                "convert_imageset -resize_width W -resize_height H resizes them",
                samples.name,
            )
        total += image
        seen(index + 1)
    return total / np.float32(len(samples))


def write_mean(path: Path, mean: np.ndarray) -> None:
    """Write a mean image [C, H, W] as a BlobProto."""
    channels, height, width = mean.shape
    blob = pb.BlobProto(num=1, channels=channels, height=height, width=width)
    blob.data.extend(mean.ravel())
    write_atomically(path, blob.SerializeToString())
