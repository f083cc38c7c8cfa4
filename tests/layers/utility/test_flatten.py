from __future__ import annotations

import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, golden_case, gradcheck, layer_net, make_layer, run


def body(param: str) -> str:
    return f'type: "Flatten" flatten_param {{ {param} }}'


@pytest.mark.parametrize("name", ["flatten", "flatten_axes"])
def test_flatten_equals_the_original(name):
    golden_case(name)


@pytest.mark.parametrize(
    ("param", "top"),
    [
        ("", (2, 60)),
        ("axis: 0", (120,)),
        ("axis: 1 end_axis: 2", (2, 12, 5)),
        ("axis: -2 end_axis: -1", (2, 3, 20)),
        ("axis: 2 end_axis: 2", (2, 3, 4, 5)),
        ("axis: 0 end_axis: 1", (6, 4, 5)),
    ],
)
def test_shape_gradient_and_onnx(param, top):
    layer = make_layer(body(param), (2, 3, 4, 5))
    x = torch.randn(2, 3, 4, 5)
    (y,) = run(layer, x)
    assert tuple(y.shape) == top
    assert torch.equal(y.flatten(), x.flatten())
    gradcheck(layer, x[:, :1, :2])
    check_onnx(layer_net(body(param), (2, 3, 4, 5), phase=pb.TEST))


def test_order_is_caffes_whatever_the_memory_layout():
    x = torch.randn(2, 3, 4, 5)
    layer = make_layer(body(""), x.shape)
    assert torch.equal(layer(x.contiguous(memory_format=torch.channels_last)), layer(x))


@pytest.mark.parametrize(
    ("param", "words"),
    [
        ("axis: 4", "axis is out of range"),
        ("end_axis: 4", "end_axis is out of range"),
        ("axis: 2 end_axis: 1", "axis must not be after end_axis"),
    ],
)
def test_mistake_is_reported(param, words):
    with pytest.raises(NetError, match=words):
        make_layer(body(param), (2, 3, 4, 5))
