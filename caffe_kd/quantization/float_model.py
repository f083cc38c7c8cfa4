"""The float model to quantise: deployed, BatchNorm folded, as ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from ..export.check import check
from ..export.deploy import DeployOptions
from ..export.merge import Merged, merge
from ..export.onnx import node_layers, onnx_model
from ..export.pipeline import copy_all_weights, deployed_param
from ..net import Net
from ..net.weights import stored_quantization
from ..proto import caffe_pb2 as pb
from ..proto.binary import LayerWeights, read_weights


@dataclass
class FloatModel:
    """A net as a float model.

    Attributes:
        net: the deployed net, BatchNorm and Scale folded, with its weights.
        model: the same as ONNX.
        layer_of: by the name of a node, its layer.
        folded: what was done with BatchNorm and Scale, as text; empty where there are none.
        rounded: the layers whose rounding was trained; here they are float.
    """

    net: Net
    model: onnx.ModelProto
    layer_of: Mapping[str, str]
    folded: list[str]
    rounded: Sequence[str] = ()


def float_model(
    param: Any, file: str | Path | None, weights: str | Path, options: DeployOptions
) -> FloatModel:
    """Deploy a net, fold its BatchNorm and Scale layers and make it an ONNX model.

    Args:
        param: the net, train/test or deploy, with the layers of all phases.
        file: where it was read.
        weights: its .caffemodel or .caffemodel.h5.
        options: which net is deployed.

    Raises:
        CaffeKDError: the net or the weights are wrong, or the net cannot be exported.
    """
    given = read_weights(weights)
    deployed = deployed_param(param, file, options)
    for layer in deployed.layer:
        layer.ClearField("quantization_param")
    merged = merge(deployed, given, str(weights))
    net = Net(merged.net, pb.TEST, file)
    copy_all_weights(net, _layer_weights(merged, given), str(weights))
    model = onnx_model(net, outputs=options.outputs)
    check(net, model, {}, (), options.outputs)
    transpose_weights(model)
    folded = [note for note in merged.notes if not note.startswith("Ignoring")]
    rounded = [w.name for w in given if stored_quantization(w) is not None]
    return FloatModel(net, model, node_layers(net, options.outputs), folded, rounded)


def _layer_weights(merged: Merged, given: Sequence[LayerWeights]) -> list[LayerWeights]:
    """Return the folded weights in the form of a file's; what was not folded is as it was."""
    of_file = {weights.name: weights for weights in given if weights.blobs}
    result = []
    for name, blobs in merged.weights.items():
        old = of_file[name]
        kept = [blob for blob in old.blobs if blob is not None]
        same = len(kept) == len(blobs) and all(a is b for a, b in zip(kept, blobs, strict=True))
        result.append(
            old if same else LayerWeights(name, old.type, list(blobs), [False] * len(blobs))
        )
    return result


def transpose_weights(model: onnx.ModelProto) -> None:
    """Transpose the weights that a model transposes each time: int8 takes constants only."""
    graph = model.graph
    arrays = {tensor.name: tensor for tensor in graph.initializer}
    for node in [n for n in graph.node if n.op_type == "Transpose" and n.input[0] in arrays]:
        perm = next(list(a.ints) for a in node.attribute if a.name == "perm")
        value = numpy_helper.to_array(arrays[node.input[0]]).transpose(perm)
        graph.initializer.append(
            numpy_helper.from_array(np.ascontiguousarray(value), node.output[0])
        )
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)
