"""Copies a layer's weights from a file into a layer of a net."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from .errors import WeightsError
from .layers import Layer
from .proto.binary import LayerWeights


def copy_into(layer: Layer, owned: Collection[int], weights: LayerWeights, source: str) -> None:
    """Copy weights into a layer's blobs.

    A blob with a legacy shape of 4 axes (num, channels, height, width) fits a blob whose shape
    it equals after leading axes of extent 1 are dropped.

    Args:
        layer: the layer.
        owned: which of its blobs no other layer owns. Only the others may be missing: HDF5 files
            hold them at the owner alone.
        weights: what the file has.
        source: the file, for messages.

    Raises:
        WeightsError: the blobs differ in number or shape.

    Source: Caffe's Net::CopyTrainedLayersFrom.
    """
    blobs = layer.blobs
    values = _values_for(layer, owned, weights, source)
    for index, (value, blob) in enumerate(zip(values, blobs, strict=False)):
        if value is not None:
            _copy_blob(layer, index, value, weights.legacy[index], blob, source)


def _values_for(
    layer: Layer, owned: Collection[int], weights: LayerWeights, source: str
) -> Sequence[np.ndarray | None]:
    """Return the file's blobs of a layer, checked to be as many as the layer has."""
    values = list(weights.blobs)
    missing = set(owned).difference(i for i, value in enumerate(values) if value is not None)
    # A layer without any blobs in the file, such as a Split, matches nothing.
    if values and (missing or len(values) > len(layer.blobs)):
        _misfit(
            layer,
            source,
            f"Incompatible number of blobs: {len(values)} in the file, "
            f"{len(layer.blobs)} in the net",
        )
    return values


def _copy_blob(
    layer: Layer, index: int, value: np.ndarray, legacy: bool, blob: Tensor, source: str
) -> None:
    wanted = tuple(blob.shape)
    padded = (1,) * (4 - len(wanted)) + wanted if legacy and len(wanted) <= 4 else wanted
    if value.shape != padded:
        _misfit(
            layer,
            source,
            f"Cannot copy param {index} weights: shape mismatch. The file's shape is "
            f"{value.shape}, the net's {wanted}. To learn this layer's parameters from "
            "scratch rather than copying from a saved net, rename the layer",
        )
    with torch.no_grad():
        blob.copy_(torch.from_numpy(np.require(value.reshape(wanted), requirements="W")))


def _misfit(layer: Layer, source: str, fact: str) -> NoReturn:
    raise WeightsError(
        f"{source}: layer '{layer.name}' ({layer.type}): {fact}",
        layer.proto.source_line or None,
    )
