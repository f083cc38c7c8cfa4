"""Nets of one loss, whose blobs have names, for the tests of the losses and Accuracy."""

from __future__ import annotations

from caffe_kd.layers import Layer
from caffe_kd.net import Net
from tests.helpers import make_net


def input_net(shapes: dict[str, tuple[int, ...]], layers: str) -> Net:
    """Build a net with an Input top of each shape, by name, and the given layers."""
    inputs = ""
    for name, shape in shapes.items():
        dims = " ".join(f"dim: {d}" for d in shape)
        inputs += (
            f'layer {{ name: "in_{name}" type: "Input" top: "{name}" '
            f"input_param {{ shape {{ {dims} }} }} }}\n"
        )
    return make_net(inputs + layers)


def layer_of(net: Net, name: str = "L") -> Layer:
    """Return the layer of this name."""
    node = net.node_of(name)
    assert node is not None
    return node.layer
