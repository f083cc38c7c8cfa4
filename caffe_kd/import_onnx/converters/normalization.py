"""Normalization over the batch, the channels or a sample."""

from __future__ import annotations

import numpy as np

from .. import steps
from ..draft import Draft, Node
from ..registry import converts


@converts("BatchNormalization")
def _batch_normalization(draft: Draft, node: Node) -> str:
    node.unused(1, 2, 3, 4)
    node.need(not node.get("training_mode", 0), "it uses the statistics of the batch")
    gain, offset, mean, variance = (node.weight(i) for i in (1, 2, 3, 4))
    kept = node.get("momentum", 0.9)
    settings = {"eps": node.get("epsilon", 1e-5)}
    if 0 < kept < 1:
        settings["moving_average_fraction"] = kept
    blobs = [mean, variance, np.ones(1, np.float32)]
    normal = draft.layer("BatchNorm", node.blob(), blobs=blobs, batch_norm_param=settings)
    return draft.layer("Scale", normal, blobs=[gain, offset], scale_param={"bias_term": True})


@converts("InstanceNormalization")
def _instance_normalization(draft: Draft, node: Node) -> str:
    y = steps.standardize(draft, node.blob(), 2, node.get("epsilon", 1e-5))
    return steps.scale_and_shift(draft, y, node.weight(1), node.weight(2), 1)


@converts("LayerNormalization")
def _layer_normalization(draft: Draft, node: Node) -> str:
    node.unused(1, 2)
    axis = node.axis(-1)
    y = steps.standardize(draft, node.blob(), axis, node.get("epsilon", 1e-5))
    shape = node.shape()[axis:]
    gain = np.broadcast_to(node.weight(1), shape)
    offset = np.broadcast_to(node.weight(2), shape) if node.has(2) else None
    return steps.scale_and_shift(draft, y, gain, offset, axis)


@converts("GroupNormalization")
def _group_normalization(draft: Draft, node: Node) -> str:
    x, groups = node.blob(), node.get("num_groups")
    channels = node.shape()[1]
    parts = draft.each(x, lambda s: (s[0], groups, int(np.prod(s[1:])) // groups))
    y = steps.standardize(draft, steps.reshape(draft, x, parts), 2, node.get("epsilon", 1e-5))
    y = steps.reshape(draft, y, node.made())
    gain, offset = node.weight(1), node.weight(2)
    if gain.size == groups:  # up to opset 20
        gain, offset = (np.repeat(blob, channels // groups) for blob in (gain, offset))
    return steps.scale_and_shift(draft, y, gain, offset, 1)


@converts("LpNormalization")
def _lp_normalization(draft: Draft, node: Node) -> str:
    axis, rank = node.axis(-1), len(node.shape())
    node.need(axis > 0, "it divides by a length over the batch")
    order = [a for a in range(rank) if a != axis] + [axis]
    x = steps.permute(draft, node.blob(), order)
    if node.get("p", 2) == 2:
        length = steps.power(draft, steps.reduce(draft, x, "SUMSQ", rank - 1), power=-0.5)
    else:
        length = steps.power(draft, steps.reduce(draft, x, "ASUM", rank - 1), power=-1)
    y = draft.layer("Scale", [x, length], scale_param={"axis": 0})
    return steps.permute(draft, y, np.argsort(order).tolist())


@converts("LRN")
def _lrn(draft: Draft, node: Node) -> str:
    settings = {
        "local_size": node.get("size"),
        "alpha": node.get("alpha", 1e-4),
        "beta": node.get("beta", 0.75),
        "k": node.get("bias", 1.0),
    }
    node.need(settings["local_size"] % 2 == 1, "its size is even, where LRN takes an odd one")
    return draft.layer("LRN", node.blob(), lrn_param=settings)


@converts("MeanVarianceNormalization")
def _mean_variance_normalization(draft: Draft, node: Node) -> str:
    axes = sorted(node.numbers("axes", 1) or [0, 2, 3])
    first, rank = axes[0], len(node.shape())
    node.need(
        first > 0 and axes == list(range(first, rank)), "its axes are not the last ones of a sample"
    )
    return steps.standardize(draft, node.blob(), first, 1e-9)
