"""Which operators of a net become int8."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from caffe_kd.export.deploy import DeployOptions
from caffe_kd.export.runtime import session_of
from caffe_kd.net import Net, read_net
from caffe_kd.proto.binary import write_weights
from caffe_kd.quantization import Options, quantize

DATA = """
layer { name: "data" type: "DummyData" top: "data"
  dummy_data_param { shape { dim: 8 dim: 4 dim: 6 dim: 6 }
    data_filler { type: "uniform" min: -1 max: 1 } } }
"""


def conv(name, bottom, more="num_output: 4 kernel_size: 3 pad: 1", kind="Convolution"):
    return f"""
layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{name}"
  convolution_param {{ {more} weight_filler {{ type: "xavier" }} }} }}"""


def layer(kind, name, *bottoms, more="", tops=()):
    below = " ".join(f'bottom: "{b}"' for b in bottoms)
    above = " ".join(f'top: "{t}"' for t in tops or [name])
    return f'\nlayer {{ name: "{name}" type: "{kind}" {below} {above} {more} }}'


@pytest.fixture
def quantized(tmp_path):
    """Quantise a net with random weights; return its float outputs beside those of int8."""

    def run(layers, **options):
        path = tmp_path / "net.prototxt"
        path.write_text('name: "n"' + DATA + layers)
        torch.manual_seed(0)
        param = read_net(path)
        net = Net(param, 1, path)
        write_weights(tmp_path / "w.caffemodel", net.param, net.weights())
        settings = Options(timed=False, iterations=2, test_iterations=2, **options)
        result = quantize(param, path, tmp_path / "w.caffemodel", tmp_path / "q.onnx", settings)
        onnx.checker.check_model(str(result.path), full_check=True)
        x = np.random.default_rng(0).uniform(-1, 1, (3, 4, 6, 6)).astype(np.float32)
        pair = [
            session_of(m).run(None, {"data": x})[0] for m in (result.source.model, result.model)
        ]
        return result, *pair

    return run


def int8_kinds(result):
    nodes = {node.name: node.op_type for node in result.source.model.graph.node}
    return [nodes[name] for name in result.plan.nodes]


def close(a, b):
    """Return whether int8 differs by a few of its steps."""
    return np.abs(a - b).max() < 0.1 * np.abs(a).max()


@pytest.mark.parametrize("more", [{}, {"per_channel": True}, {"symmetric": True}])
@pytest.mark.parametrize(
    ("layers", "kinds"),
    [
        (conv("a", "data") + conv("b", "a"), ["Conv", "Conv"]),
        (conv("a", "data", "num_output: 4 group: 2 kernel_size: 1"), ["Conv"]),
        (conv("a", "data", "kernel_size: 3", "ConvolutionDepthwise"), ["Conv"]),
        (
            conv("a", "data") + conv("up", "a", "num_output: 2 kernel_size: 2", "Deconvolution"),
            ["Conv", "ConvTranspose"],
        ),
        (
            layer("Reshape", "r", "data", more="reshape_param { shape { dim: 0 dim: 6 dim: 24 } }")
            + layer("InnerProduct", "ip", "r", more="inner_product_param { num_output: 5 axis: 2 "
            'weight_filler { type: "xavier" } bias_filler { type: "constant" value: 1 } }'),
            ["MatMul"],
        ),
        (
            conv("a", "data") + conv("b", "data") + layer("Concat", "c", "a", "b")
            + layer("Slice", "s", "c", tops=["x", "y"]) + layer("Eltwise", "e", "x", "y")
            + layer("ReLU", "r", "e") + conv("d", "r"),
            ["Conv", "Conv", "Concat", "Split", "Add", "Relu", "Conv"],
        ),
        # An operator that int8 would change much stays float, as does what follows it.
        (
            conv("a", "data") + layer("Sigmoid", "s", "a") + layer("Pooling", "p", "s",
            more="pooling_param { kernel_size: 2 stride: 2 }") + conv("b", "p"),
            ["Conv", "Conv"],
        ),
        # What follows the last layer with weights stays float.
        (
            conv("a", "data") + layer("ReLU", "r", "a")
            + layer("Pooling", "p", "r", more="pooling_param { pool: AVE global_pooling: true }")
            + layer("Softmax", "s", "p"),
            ["Conv"],
        ),
    ],
)  # fmt: skip
def test_int8_by_layer_type(quantized, layers, kinds, more):
    result, a, b = quantized(layers, **more)
    assert int8_kinds(result) == kinds
    assert close(a, b)


def test_dynamic_leaves_excluded_layers_float(quantized):
    layers = conv("a", "data") + layer(
        "InnerProduct",
        "ip",
        "a",
        more='inner_product_param { num_output: 5 weight_filler { type: "xavier" } }',
    )
    result, a, b = quantized(layers, dynamic=True)
    kinds = {node.op_type for node in result.model.graph.node}
    assert {"ConvInteger", "MatMulInteger"} <= kinds
    assert close(a, b)
    result, *_ = quantized(layers, dynamic=True, exclude=["a"])
    kinds = {node.op_type for node in result.model.graph.node}
    assert {"Conv", "MatMulInteger"} <= kinds
    assert "ConvInteger" not in kinds


def test_an_output_that_int8_layers_read_is_int8_itself(quantized):
    layers = conv("a", "data") + conv("b", "a")
    result, a, b = quantized(layers, deploy=DeployOptions(outputs=["a", "b"]))
    assert [row.blob for row in result.ranges] == ["data", "a"]
    assert close(a, b)


def test_weights_shared_by_two_layers(quantized):
    shared = 'param { name: "w" } param { name: "b" }'
    first, second = conv("a", "data"), conv("b", "a")
    first, second = (
        x.replace("convolution_param", shared + " convolution_param") for x in (first, second)
    )
    result, a, b = quantized(first + second)
    assert close(a, b)
