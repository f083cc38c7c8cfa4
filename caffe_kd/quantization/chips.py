"""Ranges in the forms of other tools: ncnn's table, and Intel's quantization_param."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import numpy_helper

from ..proto import caffe_pb2 as pb
from .given import SIGNED, UNSIGNED
from .results import BlobRange, Quantized

_TYPES = {"Convolution", "ConvolutionDepthwise", "DepthwiseConvolution", "InnerProduct"}


def ncnn_table(result: Quantized) -> str:
    """Return ncnn's table: 127 / threshold of each layer's weights, then of what it reads.

    ``<layer>_param_0`` has a scale for each output channel. A layer that is not named stays float.
    """
    weights, inputs = [], []
    for name, _ in _layers(result):
        scales = " ".join(f"{scale:.6f}" for scale in weight_scales(result, name))
        weights.append(f"{name}_param_0 {scales}")
        inputs.append(f"{name} {_scale(SIGNED, _row(result, _read(result, name)).threshold):.6f}")
    return "\n".join([*weights, *inputs]) + "\n"


def intel_net(result: Quantized) -> Any:
    """Return the deployed net, BatchNorm folded, with Intel's ``quantization_param``.

    A blob that is never negative has 255 levels to its threshold, others and weights 127.
    """
    net = pb.NetParameter()
    net.CopyFrom(result.source.net.param)
    layers = dict(_layers(result))
    for layer in net.layer:
        if layer.name not in layers:
            continue
        settings = layer.quantization_param
        settings.bw_layer_in = settings.bw_params = 8
        read = _row(result, _read(result, layer.name))
        settings.scale_in.append(_levels(read))
        if read.low < 0:
            settings.is_negative_input = True
        settings.scale_params.extend(weight_scales(result, layer.name))
        top = layers[layer.name].output[0]
        if top not in result.plan.kept_float:
            settings.bw_layer_out = 8
            settings.scale_out.append(_levels(_row(result, top)))
    return net


def weight_scales(result: Quantized, layer: str) -> list[float]:
    """Return 127 / greatest weight of each output channel of a layer; 0 for weights of 0."""
    node = result.plan.weighted[layer]
    constants = {tensor.name: tensor for tensor in result.source.model.graph.initializer}
    weight = numpy_helper.to_array(constants[node.input[1]])
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    axis = 0 if node.op_type == "Conv" or transposed else 1
    others = tuple(i for i in range(weight.ndim) if i != axis)
    return [_scale(SIGNED, float(greatest)) for greatest in np.abs(weight).max(others)]


def _layers(result: Quantized) -> Iterator[tuple[str, Any]]:
    """Yield name and node of the int8 layers whose types other tools quantise too."""
    types = {node.layer.name: node.layer.type for node in result.source.net.nodes}
    for name, node in result.plan.weighted.items():
        if types[name] in _TYPES:
            yield name, node


def _read(result: Quantized, layer: str) -> str:
    return str(result.plan.weighted[layer].input[0])


def _row(result: Quantized, value: str) -> BlobRange:
    blob = result.plan.blob_of(result.plan.root_of(value))
    return next(row for row in result.ranges if row.blob == blob)


def _levels(row: BlobRange) -> float:
    return _scale(UNSIGNED if row.low >= 0 else SIGNED, row.threshold)


def _scale(levels: int, threshold: float) -> float:
    return levels / threshold if threshold > 0 else 0.0
