from __future__ import annotations

import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, golden_case, gradcheck, layer_net, make_layer, run


def body(param: str) -> str:
    return f'type: "Slice" slice_param {{ {param} }}'


@pytest.mark.parametrize("name", ["slice_even", "slice_points"])
def test_slice_equals_the_original(name):
    golden_case(name)


@pytest.mark.parametrize(
    ("param", "sizes"),
    [
        ("", [2, 2, 2]),
        ("slice_point: 1 slice_point: 5", [1, 4, 1]),
        ("slice_dim: 1 slice_point: 2 slice_point: 3", [2, 1, 3]),
    ],
)
def test_shape_gradient_and_onnx(param, sizes):
    layer = make_layer(body(param), (2, 6, 2), tops=3)
    x = torch.randn(2, 6, 2)
    tops = run(layer, x)
    assert [t.shape[1] for t in tops] == sizes
    assert torch.equal(torch.cat(tops, 1), x)
    gradcheck(layer, x)
    check_onnx(layer_net(body(param), (2, 6, 2), tops=3, phase=pb.TEST))


def test_even_slices_of_the_batch_follow_it():
    layer = make_layer(body("axis: 0"), (4, 3), tops=2)
    assert [tuple(t.shape) for t in run(layer, torch.randn(6, 3))] == [(3, 3), (3, 3)]


@pytest.mark.parametrize(
    ("param", "words"),
    [
        ("axis: 1 slice_dim: 1", "Either axis or slice_dim should be specified; not both"),
        ("axis: 0", r"Number of top blobs \(3\) should evenly divide input slice axis \(2\)"),
        ("slice_point: 1", "slice_point must be given once fewer than tops"),
        ("slice_point: 3 slice_point: 3", "slice points must ascend"),
        ("slice_point: 4 slice_point: 2", "slice points must ascend"),
        ("slice_point: 2 slice_point: 6", "slice points must ascend"),
        ("slice_point: 0 slice_point: 2", "slice points must ascend"),
        ("axis: 5", "axis is out of range for a bottom of 3 axes"),
        ("slice_dim: 3", "slice_dim is out of range for a bottom of 3 axes"),
    ],
)
def test_mistake_is_reported(param, words):
    with pytest.raises(NetError, match=words):
        make_layer(body(param), (2, 6, 4), tops=3)
