"""The data layer's preprocessing of pixels, for the exported model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import ExportError
from ..layers import Shape
from ..proto.binary import read_blob


@dataclass
class Preprocess:
    """``y = (pixel - mean) * scale``.

    Attributes:
        mean: float32, of a shape that fits [C, H, W], or None.
        scale: a factor.
    """

    mean: np.ndarray | None
    scale: float

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Return uint8 pixels [N, C, H, W] as the float32 the net was trained on."""
        values = pixels.astype(np.float32)
        if self.mean is not None:
            values -= self.mean
        return values * np.float32(self.scale)


def preprocess_of(
    layers: Mapping[str, Any], shapes: Mapping[str, Shape], resolve: Callable[[str], Path]
) -> dict[str, Preprocess]:
    """Return the mean and scale of the inputs that replace a data layer of images.

    A mean image is cut to the input's size at its centre, where phase TEST crops. The
    mirror, which is random in TEST too, is left out.

    Args:
        layers: the data layer behind each input, see ``images_of``.
        shapes: the inputs' shapes (N, C, H, W) in the deployed net.
        resolve: finds ``mean_file`` where it is a relative path.

    Raises:
        ExportError: no input comes from images, or a mean does not fit.
        ParseError: a mean file cannot be read.
    """
    found = {
        blob: _of_layer(layer, shapes[blob], resolve)
        for blob, layer in layers.items()
        if blob in shapes
    }
    if not found:
        raise ExportError(
            "-preprocess takes mean and scale from a data layer's transform_param, but no input of "
            "this net comes from a data layer of images. Give the net that was trained "
            "(train_val.prototxt), not its deploy form"
        )
    return found


def properties_of(layers: Mapping[str, Any]) -> dict[str, str]:
    """Return, for a model's ``metadata_props``, how its input is made of pixels of 0 to 255.

    ``caffe_kd.<input>.scale`` and, where the data layer has them, ``caffe_kd.<input>.mean``, with
    commas between the channels (BGR where there are three), or ``caffe_kd.<input>.mean_file``:
    ``input = (pixel - mean) * scale``.

    Args:
        layers: the data layer behind each input, see ``images_of``.
    """
    result: dict[str, str] = {}
    for blob, layer in layers.items():
        transform = layer.transform_param
        result[f"caffe_kd.{blob}.scale"] = repr(float(transform.scale))
        if transform.mean_value:
            result[f"caffe_kd.{blob}.mean"] = ",".join(repr(float(m)) for m in transform.mean_value)
        if transform.HasField("mean_file"):
            result[f"caffe_kd.{blob}.mean_file"] = transform.mean_file
    return result


def _of_layer(layer: Any, shape: Shape, resolve: Callable[[str], Path]) -> Preprocess:
    transform = layer.transform_param
    where = layer.source_line or None
    if len(shape) != 4:
        raise ExportError(
            f"layer '{layer.name}' ({layer.type}): -preprocess takes images of 4 axes "
            f"(N, C, H, W). Received: shape={shape}",
            where,
        )
    channels, height, width = shape[1:]
    mean: np.ndarray | None = None
    if transform.HasField("mean_file"):
        path = resolve(transform.mean_file)
        image = _mean_image(read_blob(path), path)
        planes, rows, columns = image.shape
        top, left = (rows - height) // 2, (columns - width) // 2
        if planes != channels or top < 0 or left < 0:
            raise ExportError(
                f"layer '{layer.name}' ({layer.type}): the mean in '{transform.mean_file}' does "
                f"not fit the input. Received: mean {image.shape}, input {shape[1:]}",
                where,
            )
        mean = image[:, top : top + height, left : left + width]
    elif transform.mean_value:
        mean = np.array(transform.mean_value, np.float32).reshape(-1, 1, 1)
        if len(mean) not in (1, channels):
            raise ExportError(
                f"layer '{layer.name}' ({layer.type}): Specify either 1 mean_value or as many as "
                f"channels: {channels}. Received: {len(mean)}",
                where,
            )
    return Preprocess(mean, float(transform.scale))


def _mean_image(blob: np.ndarray, path: Path) -> np.ndarray:
    """Return a mean blob as [C, H, W]."""
    if blob.ndim < 3 or blob.size != math.prod(blob.shape[-3:]):
        raise ExportError(f"the mean must be one image. Received: shape {blob.shape}", str(path))
    return blob.reshape(blob.shape[-3:])
