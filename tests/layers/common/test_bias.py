from __future__ import annotations

import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, golden_case, gradcheck, layer_net, make_layer, run


def test_bias_equals_the_original():
    golden_case("bias")


@pytest.mark.parametrize(
    ("param", "shape", "blob"),
    [
        ("", (2, 3, 4), (3,)),
        ("axis: 0 num_axes: -1", (2, 3, 4), (2, 3, 4)),
        ("axis: 1 num_axes: 2", (2, 3, 4, 5), (3, 4)),
        ("axis: -1", (2, 3, 4), (4,)),
        ("num_axes: 0", (2, 3), ()),
    ],
)
def test_shape_and_gradient(param, shape, blob):
    body = f'type: "Bias" bias_param {{ {param} filler {{ value: 2 }} }}'
    layer = make_layer(body, shape)
    assert layer.blob_shapes == [blob]
    x = torch.randn(shape)
    assert torch.equal(run(layer, x)[0], x + 2)
    gradcheck(layer, x)
    if blob[:1] != shape[:1] or not blob:  # else the blob is made for this batch alone
        check_onnx(layer_net(body, shape, phase=pb.TEST))


def test_second_bottom_is_the_operand():
    layer = make_layer('type: "Bias" bias_param { axis: 0 }', (2, 3), (2,))
    x, b = torch.randn(2, 3), torch.randn(2)
    assert torch.equal(run(layer, x, b)[0], x + b[:, None])
    assert layer.blobs == []
    gradcheck(layer, x, b)


@pytest.mark.parametrize(
    ("param", "shapes", "words"),
    [
        ("num_axes: 3", [(2, 3, 4)], "bias blob's shape extends past bottom"),
        ("num_axes: -2", [(2, 3, 4)], "num_axes must be non-negative, or -1"),
        ("axis: 3", [(2, 3, 4)], "axis is out of range for a bottom of 3 axes"),
        ("", [(2, 3, 4), (4,)], "dimension mismatch between bottom"),
        ("", [(2, 3), (3, 4)], "dimension mismatch between bottom"),
    ],
)
def test_mistake_is_reported(param, shapes, words):
    with pytest.raises(NetError, match=words):
        make_layer(f'type: "Bias" bias_param {{ {param} }}', *shapes)


def test_onnx_of_two_bottoms_equals_forward():
    check_onnx(layer_net('type: "Bias" bias_param { axis: 0 }', (2, 3, 4), (2, 3), phase=pb.TEST))
