"""How long a net takes, to prune by."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..export.deploy import DeployOptions, deploy
from ..export.latency import microseconds, node_shares
from ..export.onnx import node_layers, onnx_model
from ..net import Net
from ..proto import caffe_pb2 as pb
from .cut import Weights, as_layers
from .options import NetState


@dataclass(frozen=True)
class Latency:
    """How long a net takes for one sample in ONNX Runtime, in microseconds.

    Attributes:
        total: of a run.
        layers: of that, what its profiler finds each layer to take.
    """

    total: float
    layers: dict[str, float] = field(default_factory=dict)


def latency_of(
    param: Any, weights: Weights, file: Path | None, state: NetState, by_layer: bool = False
) -> Latency:
    """Measure the deployed net.

    Args:
        param: the net.
        weights: its blobs.
        file: where it was read.
        state: which of its layers are deployed.
        by_layer: whether the layers' times are wanted.

    Raises:
        CaffeKDError: it cannot be deployed or exported.
    """
    options = DeployOptions(state.level, state.stages, state.input_shapes)
    net = Net(deploy(param, file, options), pb.TEST, file)
    net.copy_weights(as_layers(weights), "the weights")
    model = onnx_model(net)
    total = microseconds(model)
    if not by_layer:
        return Latency(total)
    layer_of = node_layers(net)
    layers: dict[str, float] = {}
    for node, share in node_shares(model).items():
        layer = layer_of[node]
        layers[layer] = layers.get(layer, 0.0) + share * total
    return Latency(total, layers)
