from __future__ import annotations

import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, golden_case, gradcheck, layer_net, make_layer, run


def body(param: str) -> str:
    return f'type: "Concat" concat_param {{ {param} }}'


@pytest.mark.parametrize("name", ["concat", "concat_axis0"])
def test_concat_equals_the_original(name):
    golden_case(name)


@pytest.mark.parametrize(
    ("param", "shapes", "top"),
    [
        ("", [(2, 3, 4), (2, 1, 4), (2, 2, 4)], (2, 6, 4)),
        ("axis: -1", [(2, 3, 4), (2, 3, 1)], (2, 3, 5)),
        ("concat_dim: 2", [(2, 3, 4), (2, 3, 1)], (2, 3, 5)),
        ("", [(2, 3)], (2, 3)),
    ],
)
def test_shape_and_gradient(param, shapes, top):
    layer = make_layer(body(param), *shapes)
    bottoms = [torch.randn(s) for s in shapes]
    (y,) = run(layer, *bottoms)
    assert tuple(y.shape) == top
    gradcheck(layer, *bottoms)


@pytest.mark.parametrize(
    ("param", "shapes", "words"),
    [
        (
            "axis: 1 concat_dim: 1",
            [(2, 3)],
            "Either axis or concat_dim should be specified; not both",
        ),
        ("axis: 2", [(2, 3)], "axis is out of range for a bottom of 2 axes"),
        ("concat_dim: 2", [(2, 3)], "concat_dim is out of range for a bottom of 2 axes"),
        ("", [(2, 3), (2, 3, 1)], "All inputs must have the same #axes"),
        ("", [(2, 3, 4), (2, 3, 5)], "same shape, except at concat_axis"),
    ],
)
def test_mistake_is_reported(param, shapes, words):
    with pytest.raises(NetError, match=words):
        make_layer(body(param), *shapes)


@pytest.mark.parametrize("shapes", [[(2, 3, 4), (2, 1, 4)], [(2, 3)]])
def test_onnx_equals_forward(shapes):
    check_onnx(layer_net(body(""), *shapes, phase=pb.TEST))
