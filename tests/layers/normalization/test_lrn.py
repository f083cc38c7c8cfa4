from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, golden_case, gradcheck, layer_net, make_layer, run

PARAMS = [
    "local_size: 5 alpha: 0.5",
    "local_size: 9 alpha: 2 beta: 0.5 k: 2",  # reaches over more channels than there are
    "local_size: 1",
    "norm_region: WITHIN_CHANNEL local_size: 3 alpha: 0.5",
    "norm_region: WITHIN_CHANNEL local_size: 7",
]


def lrn(param, shape=(2, 4, 5, 6)):
    return make_layer(f'type: "LRN" lrn_param {{ {param} }}', shape)


@pytest.mark.parametrize("name", ["lrn_across", "lrn_across_k2", "lrn_within"])
def test_lrn_equals_the_original(name):
    golden_case(name)


@pytest.mark.parametrize("param", PARAMS)
def test_shape_gradient_and_onnx(param):
    layer = lrn(param, (2, 4, 3, 2))
    x = torch.randn(2, 4, 3, 2)
    run(layer, x)
    gradcheck(layer, x)
    check_onnx(layer_net(f'type: "LRN" lrn_param {{ {param} }}', (2, 4, 5, 6), phase=pb.TEST))


@pytest.mark.parametrize("size", [1, 3, 5, 9])
def test_across_equals_torchs(size):
    x = torch.randn(2, 4, 5, 6)
    got = lrn(f"local_size: {size} alpha: 0.7 beta: 0.6 k: 1.5")(x)
    torch.testing.assert_close(got, F.local_response_norm(x, size, 0.7, 0.6, 1.5))


def test_within_ignores_k():
    x = torch.randn(2, 4, 5, 6)
    within = "norm_region: WITHIN_CHANNEL local_size: 3"
    assert torch.equal(lrn(within)(x), lrn(f"{within} k: 7")(x))


def test_channels_last_gives_the_same_numbers():
    x = torch.randn(2, 4, 5, 6)
    layer = lrn("local_size: 3")
    torch.testing.assert_close(layer(x.contiguous(memory_format=torch.channels_last)), layer(x))


@pytest.mark.parametrize(
    ("param", "shape", "words"),
    [
        ("local_size: 4", (2, 4, 5, 6), "LRN only supports odd values for local_size"),
        ("local_size: 0", (2, 4, 5, 6), "LRN only supports odd values for local_size"),
        ("", (2, 4), "Input must have 4 axes"),
        ("local_size: 4000000001", (2, 4, 5, 6), "blob size exceeds INT_MAX"),
    ],
)
def test_mistake_is_reported(param, shape, words):
    with pytest.raises(NetError, match=words):
        lrn(param, shape)
