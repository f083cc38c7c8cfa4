"""Where Intel's int8 layers stand in a net: what is part of them there.

Intel's fork joins a Convolution with the BatchNorm and Scale behind it before it rounds the
weights, and with a ReLU before it rounds the top. A sum of Eltwise is taken in float32 here, and so
are the tops that go into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..layers import Layer
from ..layers.shared.batch_statistics import BatchStatistics
from ..layers.shared.int8 import Affine, Int8, int8_of

if TYPE_CHECKING:
    from .net import LayerNode


def arrange(nodes: Sequence[LayerNode]) -> None:
    """Make normalisations part of the int8 layers before them, and round these layers' tops."""
    for index, node in enumerate(nodes):
        int8 = int8_of(node.layer)
        if int8 is not None and len(node.tops) == 1:
            _arrange(int8, node, nodes[index + 1 :])


def _arrange(int8: Int8, node: LayerNode, after: Sequence[LayerNode]) -> None:
    norm: BatchStatistics | None = None
    scale: Layer | None = None
    blob, reader = node.tops[0], _only_reader(node.tops[0], after)
    while reader is not None:
        layer = reader.layer
        if layer.type == "BatchNorm" and layer.per_sample and norm is None:
            assert isinstance(layer, BatchStatistics)
            norm = layer
        elif layer.type == "Scale" and len(reader.bottoms) == 1 and norm and scale is None:
            scale = layer
        else:
            break
        layer.forward = _pass_on
        blob, after = reader.tops[0], after[after.index(reader) + 1 :]
        reader = _only_reader(blob, after)
    if norm is not None:
        int8.affine = partial(_affine, norm, scale)
    if reader is None or reader.layer.type != "Eltwise":
        is_relu = reader is not None and reader.layer.type == "ReLU"
        slope = reader.layer.param.negative_slope if reader is not None and is_relu else 0
        int8.round_top(is_positive=is_relu and not slope)


def _only_reader(blob: str, after: Sequence[LayerNode]) -> LayerNode | None:
    """Return the layer that reads a blob, if one alone does until the blob is written again."""
    readers = []
    for node in after:
        if blob in node.bottoms:
            readers.append(node)
        if blob in node.tops:
            break
    return readers[0] if len(readers) == 1 else None


def _pass_on(x: Tensor) -> Tensor:
    return x


def _affine(norm: BatchStatistics, scale: Layer | None) -> Affine:
    """Return factor and offset of a BatchNorm with its averages and of a Scale behind it."""
    mean, var = norm.running_stats()
    factor = torch.rsqrt(var + norm.eps)
    offset = -mean * factor
    if scale is not None:
        gamma, *beta = scale.blobs
        factor, offset = factor * gamma, offset * gamma + (beta[0] if beta else 0.0)
    return factor, offset
