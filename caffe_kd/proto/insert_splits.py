"""Inserts Split layers, so that each consumer of a blob has its own copy, as in every net of Caffe.

Our nets need no Split: several layers may take one blob. Old scripts use the layers and their
blobs by name, though, and each consumer's gradient is in its own copy.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from ..core.errors import NetError, did_you_mean
from . import caffe_pb2 as pb

Source = tuple[int, int]  # which layer makes a blob, and as which of its tops


def split_name(blob: str, layer: str, top: int) -> str:
    """Return the name of the Split of a layer's top; its tops append ``_0``, ``_1``, …."""
    return f"{blob}_{layer}_{top}_split"


def insert_splits(net: Any) -> Any:
    """Return a copy of ``net`` with a Split after every top that is taken more than once.

    A loss weight that the prototxt gives counts as a consumer; it moves to the Split's first top,
    and the layer's own list is cleared. A top made in place is counted again from there.

    Args:
        net: a NetParameter of the current format, filtered for one state.

    Raises:
        NetError: a layer takes a blob that no layer before it makes.

    Source: Caffe's InsertSplits. An empty bottom, which counts as none here, stays as it is.
    """
    sources, takers, weights = _count(net)
    split = pb.NetParameter()
    split.CopyFrom(net)
    del split.layer[:]
    given: Counter[Source] = Counter()  # copies used so far
    for index, layer in enumerate(net.layer):
        copy = split.layer.add()
        copy.CopyFrom(layer)
        for position, blob in enumerate(layer.bottom):
            source = sources.get((index, position))
            if source is not None and takers[source] > 1:
                name = split_name(blob, net.layer[source[0]].name, source[1])
                copy.bottom[position] = f"{name}_{given[source]}"
                given[source] += 1
        for top, blob in enumerate(layer.top):
            count, weight = takers[index, top], weights.get((index, top), 0.0)
            if count < 2:
                continue
            name = split_name(blob, layer.name, top)
            tops = [f"{name}_{i}" for i in range(count)]
            added = split.layer.add(name=name, type="Split", bottom=[blob], top=tops)
            if weight:
                added.loss_weight.extend([weight] + [0.0] * (count - 1))
                copy.ClearField("loss_weight")
                given[index, top] += 1
    return split


def _count(net: Any) -> tuple[dict[Source, Source], Counter[Source], dict[Source, float]]:
    """Return each bottom's source, how often each top is taken, and the loss weights given."""
    latest: dict[str, Source] = {}
    sources: dict[Source, Source] = {}
    takers: Counter[Source] = Counter()
    weights: dict[Source, float] = {}
    for index, layer in enumerate(net.layer):
        for position, blob in enumerate(layer.bottom):
            if not blob:
                continue
            if blob not in latest:
                raise NetError(
                    f"layer '{layer.name}' ({layer.type}): Unknown bottom blob '{blob}' (bottom "
                    f"index {position}): no layer before this one makes it."
                    f"{did_you_mean(blob, latest)}",
                    layer.source_line or None,
                )
            sources[index, position] = latest[blob]
            takers[latest[blob]] += 1
        for top, blob in enumerate(layer.top):
            latest[blob] = index, top
        for top, weight in zip(range(len(layer.top)), layer.loss_weight, strict=False):
            if weight:
                weights[index, top] = weight
                takers[index, top] += 1
    return sources, takers, weights
