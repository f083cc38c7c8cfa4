from __future__ import annotations

import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, golden_case, gradcheck, layer_net, make_layer, make_net, run


def body(dims: list[int], param: str = "") -> str:
    listed = " ".join(f"dim: {d}" for d in dims)
    return f'type: "Reshape" reshape_param {{ shape {{ {listed} }} {param} }}'


@pytest.mark.parametrize("name", ["reshape", "reshape_copy"])
def test_reshape_equals_the_original(name):
    golden_case(name)


# The bottom is (2, 3, 4, 5).
CASES = [
    ([0, -1], "", (2, 60)),
    ([0, 0, 20], "", (2, 3, 20)),
    ([0, 0, -1, 2], "", (2, 3, 10, 2)),
    ([-1], "", (120,)),
    ([-1, 0, 0, 0], "", (2, 3, 4, 5)),
    ([6, -1], "num_axes: 2", (6, 1, 4, 5)),
    ([1, 12], "axis: 1 num_axes: 2", (2, 1, 12, 5)),
    ([1], "axis: 1 num_axes: 0", (2, 1, 3, 4, 5)),
    ([1], "axis: -1", (2, 3, 4, 5, 1)),  # counted from behind the end: replaces nothing
    ([-1], "axis: -3", (2, 3, 20)),
    ([2, 60], "", (2, 60)),
]


@pytest.mark.parametrize(("dims", "param", "top"), CASES)
def test_shape_gradient_and_order(dims, param, top):
    layer = make_layer(body(dims, param), (2, 3, 4, 5))
    x = torch.randn(2, 3, 4, 5)
    (y,) = run(layer, x)
    assert tuple(y.shape) == top
    assert torch.equal(y.flatten(), x.flatten())
    assert torch.equal(layer(x.contiguous(memory_format=torch.channels_last)), y)


def test_gradient():
    layer = make_layer(body([0, -1]), (2, 3, 2))
    gradcheck(layer, torch.randn(2, 3, 2))


@pytest.mark.parametrize(("dims", "param"), [c[:2] for c in CASES if 2 not in c[0][:1]])
def test_onnx_equals_forward_with_the_batch_open(dims, param):
    if dims[0] == 6:  # six of three channels and two samples: made for this batch alone
        dims = [-1, 1]
    check_onnx(layer_net(body(dims, param), (2, 3, 4, 5), phase=pb.TEST))


@pytest.mark.parametrize(
    ("dims", "param", "words"),
    [
        ([-1, -1], "", "contains multiple -1 dims; at most a single"),
        ([0, -2], "", "each dim must be positive, 0 or -1"),
        ([0, 0, 0, 0, 0], "", "contains a 0, but there was no corresponding bottom axis to copy"),
        ([7, -1], "", r"bottom count \(120\) must be divisible by .* \(7\)"),
        ([2, 61], "", "output count must match input count"),
        ([-1], "axis: 5", "axis 5 out of range for 4-D input blob"),
        ([-1], "axis: -6", "axis -6 out of range for 4-D input blob"),
        ([-1], "axis: 2 num_axes: 3", "end_axis = axis [+] num_axes is out of range"),
        ([-1], "num_axes: -2", "num_axes must be >= 0, or -1 for all"),
    ],
)
def test_mistake_is_reported(dims, param, words):
    with pytest.raises(NetError, match=words):
        make_layer(body(dims, param), (2, 3, 4, 5))


def test_in_place_is_refused():
    with pytest.raises(NetError, match="does not allow in-place computation"):
        make_net(
            """
            layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
            layer { name: "L" type: "Reshape" bottom: "x" top: "x"
                    reshape_param { shape { dim: -1 } } }
            """
        )
