from __future__ import annotations

import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, golden_case, layer_net, make_layer, run


def body(param: str) -> str:
    return f'type: "ArgMax" argmax_param {{ {param} }}'


@pytest.mark.parametrize("name", ["argmax", "argmax_topk_val"])
def test_argmax_equals_the_original(name):
    golden_case(name)


@pytest.mark.parametrize(
    ("param", "shape", "top"),
    [
        ("", (2, 5), (2, 1, 1)),
        ("top_k: 3", (2, 5), (2, 1, 3)),
        ("top_k: 3 out_max_val: true", (2, 5), (2, 2, 3)),
        ("top_k: 2", (2, 5, 3, 2, 2), (2, 1, 2, 1, 1)),
        ("axis: 1 top_k: 2", (2, 5, 3), (2, 2, 3)),
        ("axis: -1 out_max_val: true", (2, 5, 3), (2, 5, 1)),
        ("axis: 0", (4,), (1,)),
        ("", (4,), (4, 1, 1)),  # each sample is one value
    ],
)
def test_shape(param, shape, top):
    (y,) = run(make_layer(body(param), shape), torch.randn(shape))
    assert tuple(y.shape) == top


@pytest.mark.parametrize(("top_k", "want"), [(1, [3]), (2, [3, 1]), (4, [3, 1, 0, 2])])
def test_highest_index_of_a_tie_comes_first(top_k, want):
    layer = make_layer(body(f"top_k: {top_k}"), (1, 4))
    assert run(layer, torch.tensor([[1.0, 2.0, 0.0, 2.0]]))[0].flatten().tolist() == want


def test_values_follow_the_indices():
    layer = make_layer(body("top_k: 2 out_max_val: true"), (1, 3))
    (y,) = run(layer, torch.tensor([[0.5, -1.0, 2.5]]))
    assert y.tolist() == [[[2.0, 0.0], [2.5, 0.5]]]


def test_axis_gives_values_instead_of_indices():
    x = torch.randn(2, 5, 3)
    (y,) = run(make_layer(body("axis: 1 out_max_val: true"), x.shape), x)
    assert torch.equal(y, x.amax(1, keepdim=True))


def test_there_is_no_gradient():
    x = torch.randn(2, 5, requires_grad=True)
    assert not make_layer(body("out_max_val: true"), x.shape)(x).requires_grad


@pytest.mark.parametrize(
    ("param", "words"),
    [
        ("top_k: 0", "top k must not be less than 1"),
        ("top_k: 16", "dimension of the flattened bottom blob per instance"),
        ("axis: 1 top_k: 6", "less than or equal to the dimension of the axis"),
        ("axis: 3", "axis is out of range for a bottom of 3 axes"),
    ],
)
def test_mistake_is_reported(param, words):
    with pytest.raises(NetError, match=words):
        make_layer(body(param), (2, 5, 3))


@pytest.mark.parametrize(
    "param",
    [
        "",
        "top_k: 3",
        "top_k: 2 out_max_val: true",
        "axis: 1 top_k: 2",
        "axis: -1 out_max_val: true",
    ],
)
def test_onnx_equals_forward(param):
    check_onnx(layer_net(body(param), (2, 5, 3, 2), phase=pb.TEST))


def test_onnx_gives_the_highest_index_of_a_tie():
    net = layer_net(
        'type: "Power" power_param { scale: 0 }', (2, 5), phase=pb.TEST
    )  # all values are 0
    text = net.param
    layer = text.layer.add(name="best", type="ArgMax", bottom=["y0"], top=["best"])
    layer.argmax_param.top_k = 2
    net = type(net)(text)
    net.forward()
    assert net.blobs["best"].tolist() == [[[4.0, 3.0]]] * 2
    check_onnx(net)
