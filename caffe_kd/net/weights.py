"""Copies weights from files into the layers of a net, and reports what fitted and what did not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from google.protobuf.message import DecodeError
from torch import Tensor

from ..core.errors import WeightsError
from ..layers import Layer
from ..layers.shared import quantized_layer
from ..proto import caffe_pb2 as pb
from ..proto.binary import LayerWeights

if TYPE_CHECKING:
    from ..logs.log import Log
    from . import Net

_NAMES_SHOWN = 12


@dataclass
class Copied:
    """What happened to the weights of a file: names of layers.

    Attributes:
        source: the file.
        net: the net's name.
        wanted: the net's layers that have parameters.
        filled: those filled from the file.
        ignored: layers of the file that the net lacks, with or without weights.
        unused: those of them that have weights.
        rounded: those that round their values from now on, as the file says.
    """

    source: str
    net: str
    wanted: list[str]
    filled: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    rounded: list[str] = field(default_factory=list)

    @property
    def misfit(self) -> str | None:
        """A message where nothing in the file fits the net; None where something does."""
        if self.filled or not self.wanted:
            return None
        return (
            f"{self.source}: no layer of net '{self.net}' has the name of a layer with weights in "
            f"this file. Received: {shown(self.unused) or 'no weights at all'}. "
            f"The net's layers with parameters: {shown(self.wanted)}"
        )

    @property
    def rounding(self) -> str:
        """A message about the layers that round their values."""
        return f"Values are rounded to few bits, as {self.source} says, in {shown(self.rounded)}"

    def check(self) -> Copied:
        """Return this report of weights that are needed.

        Raises:
            WeightsError: nothing in the file fits the net.
        """
        if self.misfit is not None:
            raise WeightsError(self.misfit)
        return self


def shown(names: Sequence[str]) -> str:
    """Return names for a message, the first few of them."""
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:_NAMES_SHOWN]) + more


def lacking(net: Net) -> str | None:
    """Return a sentence that names the layers that no file has given weights; None: none lacks."""
    names = net.without_weights()
    if not names:
        return None
    return f"no weights for {shown(names)}: the fillers' values are used"


def load_for_use(net: Net, paths: Iterable[str], log: Log, needed: bool = True) -> None:
    """Load files of weights into a net that is to be used, with lines about what does not fit.

    Args:
        net: the net.
        paths: the files; with none the fillers' values are what is wanted.
        log: where the lines go.
        needed: whether a file of which nothing fits is an error; else it is a warning.

    Raises:
        WeightsError: nothing of a file fits, or a layer's blobs differ in number or shape.
        ParseError: a file is not a caffemodel.
    """
    copied = None
    for path in paths:
        copied = net.load_weights(path)
        for name in copied.ignored:
            log.info(f"Ignoring source layer {name}")
        if needed:
            copied.check()
        elif copied.misfit is not None:
            log.warning(copied.misfit)
        if copied.rounded:
            log.info(copied.rounding)
    sentence = lacking(net)
    if copied is not None and sentence is not None:
        log.warning(sentence)


def round_as_stored(net: Net, layers: Iterable[LayerWeights]) -> list[str]:
    """Let layers round their values as a file of a quantised net says; return their names.

    Only what this project's training writes counts. A layer that has such settings in the net's own
    file keeps those.

    Raises:
        NetError: the settings do not fit the layer.
    """
    rounded = []
    for weights in layers:
        node = net.node_of(weights.name) if weights.blobs else None
        if node is None or quantized_layer.has_steps(node.layer.proto.quantization_param):
            continue
        quantized_layer.detach(node.layer)
        given = stored_quantization(weights)
        if given is not None:
            quantized_layer.apply(node.layer, given)
            rounded.append(weights.name)
    return rounded


def stored_quantization(weights: LayerWeights) -> Any | None:
    """Return the QuantizationParameter of a layer in a file if it has steps, else None."""
    given = pb.QuantizationParameter()
    try:
        given.ParseFromString(weights.quantization)
    except DecodeError:  # a fork has something else under the number
        return None
    return given if quantized_layer.has_steps(given) else None


def copy_into(layer: Layer, owned: Collection[int], weights: LayerWeights, source: str) -> None:
    """Copy weights into a layer's blobs.

    A layer of the file must have as many blobs as the net's, none included: only a layer that the
    file lacks keeps its initial values.

    A blob with a legacy shape of 4 axes (num, channels, height, width) fits a blob whose shape
    it equals after leading axes of size 1 are dropped.

    Args:
        layer: the layer.
        owned: which of its blobs no other layer owns. HDF5 files may lack the others, which they
            hold at the owner alone.
        weights: what the file has.
        source: the file, for messages.

    Raises:
        WeightsError: the blobs differ in number or shape.

    Source: Caffe's Net::CopyTrainedLayersFromBinaryProto and CopyTrainedLayersFromHDF5.
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
    needed = set(owned) if weights.owned_only else set(range(len(layer.blobs)))
    missing = needed.difference(i for i, value in enumerate(values) if value is not None)
    if missing or len(values) > len(layer.blobs):
        _misfit(
            layer,
            source,
            f"Incompatible number of blobs: {len(values)} in the file, "
            f"{len(layer.blobs)} in the net. To keep the layer's initial values, rename it",
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
