"""Folds normalization into the layer before it, with the same outputs in phase TEST."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.errors import WeightsError
from ..net.weights import shown, stored_quantization
from ..proto import caffe_pb2 as pb
from ..proto.binary import LayerWeights

# Types whose first blob has one slice of weights for each channel of the top, along axis
# 0 unless InnerProduct's is transposed.
_LINEAR = ("Convolution", "ConvolutionDepthwise", "DepthwiseConvolution", "InnerProduct")
_FOLDED = ("BatchNorm", "Scale")


@dataclass
class Merged:
    """A net with fewer layers.

    Attributes:
        net: the NetParameter.
        weights: its blobs by layer name.
        notes: what was done with each candidate layer, as text.
    """

    net: Any
    weights: dict[str, list[np.ndarray]]
    notes: list[str]


def merge(net: Any, layers: Sequence[LayerWeights], source: str) -> Merged:
    """Return a net whose BatchNorm and Scale layers are part of the layers that feed them.

    With W and b the weights and bias of a Convolution or InnerProduct, m, v and eps of the
    BatchNorm behind it, g and d of the Scale behind that::

        s = g / sqrt(v + eps)        W' = W * s        b' = (b - m) * s + d

    Either of the two may be missing. A layer is folded if no other layer takes the blob before it
    is normalized. The outputs in phase TEST stay the same; the net is not for training, where
    BatchNorm would use the batch's statistics.

    Args:
        net: the NetParameter, current format, with the layers of all phases.
        layers: its weights.
        source: their file, for messages.

    Raises:
        WeightsError: weights are missing or do not fit, or the file has none for this net.

    Source: Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167, section 3.1.
    """
    found = {w.name: [b for b in w.blobs if b is not None] for w in layers if w.blobs}
    own = {layer.name for layer in net.layer}
    unused = [name for name in found if name not in own]
    if len(unused) == len(found):
        raise WeightsError(
            f"no layer of net '{net.name}' has the name of a layer with weights in this file. "
            f"Received: {shown(unused) or 'no weights at all'}",
            source,
        )
    merger = _Merger(net, found, source)
    merger.notes += [f"Ignoring source layer {name}" for name in unused]
    merger.run()
    rounded = [w.name for w in layers if stored_quantization(w) is not None]
    if rounded and len(merger.layers) < len(net.layer):
        raise WeightsError(
            f"these are weights of a training with rounded values, and the ranges of "
            f"{shown(rounded)} do not fit folded weights: fold the net before that training",
            source,
        )
    merged = pb.NetParameter()
    merged.CopyFrom(net)
    del merged.layer[:]
    merged.layer.extend(merger.layers)
    names = {layer.name for layer in merger.layers}
    kept = {name: blobs for name, blobs in merger.weights.items() if name in names}
    return Merged(merged, kept, merger.notes)


class _Merger:
    def __init__(self, net: Any, weights: dict[str, list[np.ndarray]], source: str) -> None:
        self.layers = []
        for layer in net.layer:
            copy = pb.LayerParameter()
            copy.CopyFrom(layer)
            self.layers.append(copy)
        self.weights = dict(weights)
        self.source = source
        self.notes: list[str] = []

    def run(self) -> None:
        index = 0
        while index < len(self.layers):
            layer = self.layers[index]
            if layer.type in _LINEAR and len(layer.top) == 1:
                while (follower := self._follower(index)) is not None:
                    self._fold(layer, follower)
            index += 1

    def _follower(self, index: int) -> Any | None:
        """Return the layer to fold into that at ``index``: the only consumer of its top."""
        layer = self.layers[index]
        (top,) = layer.top
        readers = []
        for other in self.layers[index + 1 :]:
            if top in other.bottom:
                readers.append(other)
            if top in other.top:
                break  # later layers take this one's top
        if len(readers) != 1 or readers[0].type not in _FOLDED:
            return None
        (follower,) = readers
        reason = self._obstacle(layer, follower)
        if reason:
            self.notes.append(f"{follower.name} ({follower.type}) stays: {reason}")
        return None if reason else follower

    def _obstacle(self, layer: Any, follower: Any) -> str:
        """Return why a layer cannot be folded into the one before it, or ""."""
        if len(follower.bottom) != 1 or len(follower.top) != 1:
            return "it has two bottoms, or more than one top"
        if list(layer.include) != list(follower.include) or list(layer.exclude) != list(
            follower.exclude
        ):
            return f"its include and exclude rules are not those of {layer.name}"
        if any(spec.name for spec in (*layer.param, *follower.param)):
            return "its parameters, or those of the layer before it, are shared by name"
        if layer.type == "InnerProduct" and layer.inner_product_param.axis != 1:
            return f"{layer.name} does not have its channels at axis 1"
        if follower.type == "BatchNorm":
            param = follower.batch_norm_param
            if param.HasField("use_global_stats") and not param.use_global_stats:
                return "it uses the statistics of each batch, with use_global_stats: false"
        elif follower.scale_param.axis != 1 or follower.scale_param.num_axes != 1:
            return "it scales other axes than axis 1"
        return ""

    def _fold(self, layer: Any, follower: Any) -> None:
        factor, offset = self._factor_and_offset(follower)
        is_product = layer.type == "InnerProduct"
        param = layer.inner_product_param if is_product else layer.convolution_param
        blobs = self._blobs(layer, 2 if param.bias_term else 1)
        weight = blobs[0].astype(np.float64)
        if is_product:  # an old file has 4 axes, the first two of size 1
            weight = weight.reshape(weight.shape[-2:])
        axis = 1 if is_product and param.transpose else 0
        channels = weight.shape[axis]
        if factor.size != channels:
            raise WeightsError(
                f"{self.source}: layer '{follower.name}' ({follower.type}) is for {factor.size} "
                f"channels, and '{layer.name}' makes {channels}",
                follower.source_line or None,
            )
        bias = blobs[1].reshape(-1).astype(np.float64) if param.bias_term else np.zeros(channels)
        along = [-1 if i == axis else 1 for i in range(weight.ndim)]
        self.weights[layer.name] = [
            (weight * factor.reshape(along)).astype(np.float32),
            (bias * factor + offset).astype(np.float32),
        ]
        param.ClearField("bias_term")
        layer.top[:] = follower.top
        self.layers.remove(follower)
        self.notes.append(f"{follower.name} ({follower.type}) is part of {layer.name} now")

    def _factor_and_offset(self, follower: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return s and d of ``y = s * x + d``, what the layer computes."""
        if follower.type == "BatchNorm":
            blobs = (b.reshape(-1).astype(np.float64) for b in self._blobs(follower, 3))
            mean, var, count = blobs
            by = 1 / count if count[0] else np.zeros(1)
            factor = 1 / np.sqrt(var * by + follower.batch_norm_param.eps)
            return factor, -mean * by * factor
        has_bias = follower.scale_param.bias_term
        gain, *bias = (
            b.reshape(-1).astype(np.float64) for b in self._blobs(follower, 2 if has_bias else 1)
        )
        return gain, bias[0] if bias else np.zeros_like(gain)

    def _blobs(self, layer: Any, count: int) -> list[np.ndarray]:
        blobs = self.weights.get(layer.name, [])
        if len(blobs) != count:
            raise WeightsError(
                f"{self.source}: layer '{layer.name}' ({layer.type}) has {len(blobs)} blobs in the "
                f"file, where {count} are needed",
                layer.source_line or None,
            )
        return blobs
