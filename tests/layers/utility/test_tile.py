from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, golden_case, gradcheck, layer_net, make_layer, run

SHAPE = (2, 3, 4, 2)


def body(param: str) -> str:
    return f'type: "Tile" tile_param {{ {param} }}'


def test_tile_equals_the_original():
    golden_case("tile")


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -4])
def test_copies_follow_one_another_along_the_axis(axis):
    layer = make_layer(body(f"axis: {axis} tiles: 3"), SHAPE)
    x = torch.randn(SHAPE)
    (y,) = run(layer, x)
    assert torch.equal(y, torch.cat([x, x, x], axis))
    assert layer.per_sample == (axis not in (0, -4))
    gradcheck(layer, x)


def test_axis_is_the_channels_unless_given():
    assert make_layer(body("tiles: 5"), SHAPE).top_shapes([SHAPE]) == [(2, 15, 4, 2)]


def test_gradient_is_the_sum_over_the_copies():
    layer = make_layer(body("tiles: 2"), (1, 2))
    x = torch.zeros(1, 2, requires_grad=True)
    (grad,) = torch.autograd.grad(layer(x), x, torch.tensor([[1.0, 2, 30, 40]]))
    np.testing.assert_array_equal(grad, [[31, 42]])


@pytest.mark.parametrize("axis", [0, 1, 3])
def test_onnx_equals_forward(axis):
    check_onnx(layer_net(body(f"axis: {axis} tiles: 2"), SHAPE, phase=pb.TEST))


@pytest.mark.parametrize(
    ("param", "words"),
    [
        ("", "Number of tiles must be specified"),
        ("tiles: 0", "Number of tiles must be positive. Received: tiles=0"),
        ("tiles: -2", "Number of tiles must be positive"),
        ("tiles: 2 axis: 4", "axis is out of range"),
        ("tiles: 2000000000", "blob size exceeds INT_MAX"),
    ],
)
def test_mistake_is_reported(param, words):
    with pytest.raises(NetError, match=words):
        make_layer(body(param), SHAPE)
