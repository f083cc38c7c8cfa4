"""Writes images with a teacher's labels as a database."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data.backends.lmdb import LmdbWriter
from ..proto import caffe_pb2 as pb
from .teacher import PixelTeacher


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        classes: how many images of each class, int64 [K].
        confidence: the mean probability that the teacher gives its class.
    """

    classes: np.ndarray
    confidence: float


def write(
    path: Path, batches: Iterable[Tensor], teacher: PixelTeacher, overwrite: bool = False
) -> Written:
    """Write batches of pixels [N, C, H, W], 0 to 255, as an LMDB of Datum with uint8 data.

    A label is the class that the teacher sees in the image as it is stored. The keys are numbers of
    eight digits.

    Raises:
        DataError: the database exists already or cannot be written; then none is made.
    """
    classes = np.zeros(teacher.classes, np.int64)
    confidence = 0.0
    with LmdbWriter(path, overwrite) as database:
        for batch in batches:
            stored = batch.round().clamp(0, 255)
            with torch.no_grad():
                sure, labels = teacher(stored).softmax(1).max(1)
            confidence += float(sure.sum())
            classes += np.bincount(labels.cpu().numpy(), minlength=teacher.classes)
            images = stored.to(torch.uint8).cpu().numpy()
            for image, label in zip(images, labels.tolist(), strict=True):
                channels, height, width = image.shape
                datum = pb.Datum(
                    channels=channels,
                    height=height,
                    width=width,
                    data=image.tobytes(),
                    label=label,
                )
                database.put(b"%08d" % database.count, datum.SerializeToString())
    return Written(classes, confidence / database.count)
