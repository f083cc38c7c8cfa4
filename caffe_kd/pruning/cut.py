"""Removes channels from a net and its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..proto import caffe_pb2 as pb
from ..proto.binary import LayerWeights
from .channels import Ids
from .visit import Channels

Weights = dict[str, list[NDArray[np.float32]]]


def cut_net(param: Any, channels: Channels, removed: NDArray[np.bool_]) -> Any:
    """Return a net without some channels: with smaller counts, and all else as it was.

    Args:
        param: the NetParameter with the layers of all phases.
        channels: its channels.
        removed: which go, by their numbers.
    """

    def size(ids: Ids) -> int:
        return int((~removed[ids]).sum())

    cut = pb.NetParameter()
    cut.CopyFrom(param)
    edits = [e for e in channels.edits.values() if any(removed[p].any() for p in e.pieces)]
    for layer in cut.layer:
        for edit in edits:
            if edit.layer == layer.name:  # in each phase that has it
                edit.apply(layer, size)
    return cut


def cut_weights(
    weights: Mapping[str, Sequence[NDArray[np.float32]]],
    channels: Channels,
    removed: NDArray[np.bool_],
) -> Weights:
    """Return a net's parameters without those of some channels.

    Args:
        weights: the parameters by layer, of the shapes that the net's layers have.
        channels: the net's channels.
        removed: which go, by their numbers.
    """
    cut = {name: list(blobs) for name, blobs in weights.items()}
    for use in channels.uses.values():
        gone = removed[use.ids]
        if gone.any():
            blobs = cut[use.layer]
            blobs[use.blob] = np.compress(~gone, blobs[use.blob], use.axis)
    return cut


def as_layers(weights: Weights) -> list[LayerWeights]:
    """Return parameters as a net takes them from a file."""
    return [LayerWeights(n, "", list(b), [False] * len(b)) for n, b in weights.items()]


def as_blobs(layers: Sequence[LayerWeights]) -> Weights:
    """Return what a file has of parameters, by layer."""
    return {w.name: [b for b in w.blobs if b is not None] for w in layers if w.blobs}
