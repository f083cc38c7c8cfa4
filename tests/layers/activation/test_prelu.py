from __future__ import annotations

import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, golden_case, gradcheck, layer_net, make_layer, run

SHARED = 'type: "PReLU" prelu_param { channel_shared: true }'


def test_prelu_equals_the_original():
    golden_case("prelu")


def test_slopes_are_a_quarter_for_each_channel():
    layer = make_layer('type: "PReLU"', (2, 3, 4))
    assert layer.blobs[0].tolist() == [0.25, 0.25, 0.25]


def test_shared_slope_is_a_single_value():
    layer = make_layer(
        'type: "PReLU" prelu_param { channel_shared: true filler { value: 2 } }', (2, 3)
    )
    assert layer.blob_shapes == [()]
    y = run(layer, torch.tensor([[-1.0, 0.0, 3.0]]))[0]
    assert y.tolist() == [[-2.0, 0.0, 3.0]]


@pytest.mark.parametrize("body", ['type: "PReLU"', SHARED])
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 2)])
def test_shape_and_gradient(body, shape):
    layer = make_layer(body, shape)
    x = torch.randn(shape)
    run(layer, x)
    gradcheck(layer, x)


def test_gradient_at_zero_is_the_slope():
    layer = make_layer('type: "PReLU"', (1, 1))
    x = torch.zeros(1, 1, requires_grad=True)
    (grad,) = torch.autograd.grad(layer(x), x)
    assert grad.item() == 0.25


def test_bottom_of_one_axis_is_refused():
    with pytest.raises(NetError, match="Number of axes of bottom blob must be >=2"):
        make_layer('type: "PReLU"', (3,))


@pytest.mark.parametrize(
    "body", ['type: "PReLU" prelu_param { filler { type: "uniform" } }', SHARED]
)
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 2)])
def test_onnx_equals_forward(body, shape):
    check_onnx(layer_net(body, shape, phase=pb.TEST))
