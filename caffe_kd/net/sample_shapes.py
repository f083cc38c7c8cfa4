"""The shape of a data layer's samples where its data is absent: given, or guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..core.errors import CaffeKDError
from ..layers import Shape
from ..proto.binary import read_blob
from .queries import beside, data_param

_COLOURS = 3
_IMAGE_AXES = 3  # channels, rows, columns


def with_batch(given: Shape, batch: int = 1) -> Shape:
    """Return a blob's shape from what ``-input_shape`` gives.

    Up to three numbers are a sample, as C,H,W of an image; more begin with the batch, as N,C,H,W.
    """
    return given if len(given) > _IMAGE_AXES else (batch, *given)


def guessed_shape(proto: Any, file: Path | None) -> tuple[Shape | None, str]:
    """Return the samples' shape as far as the layer's settings give it, and which settings did."""
    transform = proto.transform_param
    settings = data_param(proto)
    if proto.type not in ("Data", "ImageData", "WindowData") or settings is None:
        return None, ""
    if proto.type == "ImageData" and settings.new_height and not transform.crop_size:
        colours = _COLOURS if settings.is_color else 1
        return (colours, settings.new_height, settings.new_width), "from new_height and new_width"
    mean = _mean_shape(proto, file)
    if mean is not None:
        crop = transform.crop_size
        return (mean[0], crop or mean[1], crop or mean[2]), "from the mean_file"
    if not transform.crop_size:
        return None, ""
    if len(transform.mean_value) > 1:
        colours, reason = len(transform.mean_value), "from crop_size and the mean_value"
    elif transform.force_gray or (proto.type == "ImageData" and not settings.is_color):
        colours, reason = 1, "from crop_size, in grey"
    else:
        colours, reason = _COLOURS, "from crop_size, supposing three colours"
    return (colours, transform.crop_size, transform.crop_size), reason


def _mean_shape(proto: Any, file: Path | None) -> Shape | None:
    """Return channels, height and width of the mean_file, if it is there."""
    if not proto.transform_param.mean_file:
        return None
    try:
        mean = read_blob(beside(proto, proto.transform_param.mean_file, file))
    except CaffeKDError:
        return None
    return tuple(mean.shape[-3:]) if mean.ndim >= 3 else None
