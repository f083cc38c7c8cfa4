"""Nets to prune, and what a net with masked channels is."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from caffe_kd.net import Net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.binary import LayerWeights
from caffe_kd.proto.filter import filter_net

READING = ("Convolution", "Deconvolution", "InnerProduct", "DepthwiseConvolution")
DATA = """
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 4 dim: 3 dim: 12 dim: 12 } shape { dim: 4 }
    data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" value: 1 } } }
"""
LOSS = """
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "out" bottom: "label" top: "loss" }
"""


def conv(name: str, bottom: str, outputs: int, extra: str = "kernel_size: 3 pad: 1") -> str:
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" '
        f"convolution_param {{ num_output: {outputs} {extra} }} }}\n"
    )


def ip(name: str, bottom: str, outputs: int = 5, extra: str = "") -> str:
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" '
        f"inner_product_param {{ num_output: {outputs} {extra} }} }}\n"
    )


def one(
    kind: str, name: str, *bottoms: str, extra: str = "", tops: tuple[str, ...] | None = None
) -> str:
    blobs = "".join(f' bottom: "{b}"' for b in bottoms)
    blobs += "".join(f' top: "{t}"' for t in ((name,) if tops is None else tops))
    return f'layer {{ name: "{name}" type: "{kind}"{blobs} {extra} }}\n'


def whole(body: str) -> Any:
    """Return a net with data and loss around a body that ends in the blob ``out``."""
    return text.parse(DATA + body + LOSS, pb.NetParameter(), "net.prototxt")


def built(param: Any, phase: int) -> Net:
    return Net(filter_net(param, pb.NetState(phase=phase)), phase)


def random_weights(param: Any, seed: int = 0) -> list[LayerWeights]:
    """Return weights of which none is 0, those of variances above it."""
    rng = np.random.default_rng(seed)
    weights = {}
    for phase in (pb.TEST, pb.TRAIN):
        for node in built(param, phase).nodes:
            blobs = [rng.normal(0.1, 0.4, s).astype(np.float32) for s in node.layer.blob_shapes]
            if node.layer.type == "BatchNorm":
                blobs = [blobs[0], np.abs(blobs[1]) + 0.5, np.ones(1, np.float32)]
            if node.layer.type == "BN":
                blobs[3] = np.abs(blobs[3]) + 0.5
            if blobs:
                weights.setdefault(node.layer.name, blobs)
    return as_layers(weights)


def as_layers(weights: dict[str, list[np.ndarray]]) -> list[LayerWeights]:
    return [LayerWeights(n, "", list(b), [False] * len(b)) for n, b in weights.items()]


def logits(param: Any, weights: list[LayerWeights], phase: int, seed: int = 7) -> np.ndarray:
    """Return what a net makes of random images."""
    net = built(param, phase)
    net.copy_weights(weights, "weights")
    torch.manual_seed(seed)
    with torch.no_grad():
        net()
    return net.blobs["out"].numpy()
