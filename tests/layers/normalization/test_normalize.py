from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import assert_close, check_onnx, gradcheck, layer_net, make_layer, run

PARAMS = [
    "",
    "across_spatial: false",
    "channel_shared: false",
    "across_spatial: false channel_shared: false eps: 0.5",
]


def body(param: str) -> str:
    return f'type: "Normalize" norm_param {{ {param} }}'


def plain(x: np.ndarray, scale: np.ndarray, across: bool, eps: float) -> np.ndarray:
    y = np.empty_like(x)
    for n, c, h, w in np.ndindex(*x.shape):
        vector = x[n].ravel() if across else x[n, :, h, w]
        length = math.sqrt(sum(value * value for value in vector) + eps)
        y[n, c, h, w] = x[n, c, h, w] / length * (scale[c] if scale.ndim else scale)
    return y


@pytest.mark.parametrize("param", PARAMS)
def test_value_gradient_and_onnx(param):
    shape = (2, 3, 4, 5)
    net = layer_net(body(param), shape, phase=pb.TEST)
    layer = net.nodes[-1].layer
    with torch.no_grad():
        layer.blobs[0].uniform_(0.5, 2)
    x = torch.randn(shape)
    eps = 0.5 if "eps" in param else 1e-10
    across = "across_spatial: false" not in param
    want = plain(x.double().numpy(), layer.blobs[0].detach().double().numpy(), across, eps)
    assert_close(run(layer, x)[0], want)
    check_onnx(net)
    gradcheck(layer, x)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (1, 3, 2, 2, 2)])
def test_any_number_of_axes(shape):
    x = torch.randn(shape)
    (y,) = run(make_layer(body("across_spatial: false channel_shared: false"), shape), x)
    assert_close(y, torch.nn.functional.normalize(x, dim=1))
    check_onnx(layer_net(body("channel_shared: false"), shape, phase=pb.TEST))


def test_scale_is_one_unless_filled_and_has_the_forks_shape():
    assert make_layer(body(""), (2, 3)).blobs[0].shape == ()
    assert make_layer(body(""), (2, 3)).blobs[0].item() == 1
    filled = "channel_shared: false scale_filler { type: 'constant' value: 20 }"
    assert make_layer(body(filled), (2, 3)).blobs[0].tolist() == [20.0] * 3


@pytest.mark.parametrize("param", PARAMS)
def test_record_of_zeros_has_a_finite_gradient(param):
    layer = make_layer(body(param), (1, 3, 2, 2))
    x = torch.zeros(1, 3, 2, 2, requires_grad=True)
    layer(x).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(layer.blobs[0].grad).all()


def test_layout_of_the_bottom_and_the_batch_make_no_difference():
    layer = make_layer(body("across_spatial: false channel_shared: false"), (2, 3, 4, 5))
    x = torch.randn(5, 3, 4, 5)
    assert_close(layer(x.to(memory_format=torch.channels_last)), layer(x).detach())


def test_bottom_of_one_axis_is_refused():
    with pytest.raises(NetError, match="Number of axes of bottom blob must be >=2"):
        make_layer(body(""), (3,))
