"""Reads and writes a whole net in binary, its blobs inside the message.

Training and export read weights without the rest of the message (``binary.py``), which is faster.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from ..core.errors import ParseError
from ..core.files import write_atomically
from . import caffe_pb2 as pb
from . import pruned_layers
from .binary import LayerWeights, read_weights
from .blob import blob_parts
from .renumber import renumber
from .text import clear_source_lines
from .wire import HDF5_MAGIC, Damaged, whole_file


def read_net(path: str | Path) -> Any:
    """Read a ``.caffemodel`` of any format version into a NetParameter, as it is.

    Fields that forks number otherwise are under the names they have here; see ``renumber.py``.
    Values that NVIDIA's fork keeps as ``raw_data`` are in ``data``, and masks of pruned layers are
    multiplied into the weights.

    Raises:
        ParseError: the file is missing, damaged, truncated, or holds something else.
    """
    data = whole_file(path)
    if data[: len(HDF5_MAGIC)] == HDF5_MAGIC:
        raise ParseError("is an HDF5 file, which holds weights but no net", str(path))
    # Reports what is wrong with the file, and limits how many messages it can make.
    weights = read_weights(path)
    net = pb.NetParameter()
    try:
        net.ParseFromString(renumber(data))
    except (DecodeError, Damaged) as error:
        raise ParseError(f"is not a caffemodel, or is damaged: {error}", str(path)) from None
    clear_source_lines(net)
    if not net.layers:  # the two kinds of layers may lie in any order
        _unpack_raw_data(net, weights)
    return net


def _unpack_raw_data(net: Any, weights: list[LayerWeights]) -> None:
    """Set ``data`` of blobs whose values came in another form, or with masks."""
    for layer, read in zip(net.layer, weights, strict=True):
        if layer.type in pruned_layers.TYPES:
            del layer.blobs[:]
            for values in (a for a in read.blobs if a is not None):
                layer.blobs.add().MergeFromString(b"".join(blob_parts(values, None)))
        for blob, array in zip(layer.blobs, read.blobs, strict=True):
            if array is None or not array.size or blob.data or blob.double_data:
                continue
            blob.DiscardUnknownFields()
            blob.MergeFromString(b"".join(blob_parts(array.reshape(-1), None)[:-1]))


def write_net(path: str | Path, net: Any) -> None:
    """Write a NetParameter in binary, atomically.

    Raises:
        CaffeKDError: the file cannot be written.
    """
    write_atomically(path, net.SerializePartialToString())
