from __future__ import annotations

import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, golden_case, gradcheck, layer_net, make_layer, run

FILLERS = 'weight_filler { type: "gaussian" } bias_filler { type: "gaussian" }'


def body(param: str) -> str:
    return f'type: "InnerProduct" inner_product_param {{ {param} {FILLERS} }}'


@pytest.mark.parametrize("name", ["ip", "ip_transpose"])
def test_inner_product_equals_the_original(name):
    golden_case(name)


@pytest.mark.parametrize(
    ("param", "top", "weight"),
    [
        ("num_output: 5", (2, 5), (5, 24)),
        ("num_output: 5 transpose: true", (2, 5), (24, 5)),
        ("num_output: 5 axis: 2", (2, 3, 5), (5, 8)),
        ("num_output: 5 axis: -1 bias_term: false", (2, 3, 4, 5), (5, 2)),
    ],
)
def test_shape_gradient_and_onnx(param, top, weight):
    layer = make_layer(body(param), (2, 3, 4, 2))
    assert layer.blob_shapes[0] == weight
    x = torch.randn(2, 3, 4, 2)
    (y,) = run(layer, x)
    assert tuple(y.shape) == top
    gradcheck(layer, x)
    check_onnx(layer_net(body(param), (2, 3, 4, 2), phase=pb.TEST))


def test_order_is_caffes_whatever_the_memory_layout():
    layer = make_layer(body("num_output: 5"), (2, 3, 4, 2))
    x = torch.randn(2, 3, 4, 2)
    torch.testing.assert_close(layer(x.contiguous(memory_format=torch.channels_last)), layer(x))


def test_transposed_weights_are_filled_for_a_fan_in_of_num_output():
    param = 'num_output: 300 transpose: true weight_filler { type: "xavier" }'
    layer = make_layer(f'type: "InnerProduct" inner_product_param {{ {param} }}', (1, 3))
    bound = (3 / 300) ** 0.5
    assert 0.9 * bound < layer.blobs[0].abs().max().item() <= bound


@pytest.mark.parametrize(
    ("param", "words"),
    [
        ("", "num_output must be at least 1"),
        ("num_output: 5 axis: 4", "axis is out of range for a bottom of 4 axes"),
        ("num_output: 4000000000", "blob size exceeds INT_MAX"),
    ],
)
def test_mistake_is_reported(param, words):
    with pytest.raises(NetError, match=words):
        make_layer(body(param), (2, 3, 4, 2))
