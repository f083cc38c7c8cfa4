from __future__ import annotations

import pytest
import torch

from caffe_kd.core.errors import NetError
from tests.helpers import check_onnx, gradcheck, inputs_text, make_layer, make_net, run

BODY = 'type: "ReLU6"'


def test_relu6_stays_in_0_to_6():
    (y,) = run(make_layer(BODY, (5,)), torch.tensor([-1.0, 0, 2.5, 6, 7]))
    assert y.tolist() == [0, 0, 2.5, 6, 6]


def test_gradient_is_1_between_the_bounds_and_0_on_them():
    x = torch.tensor([-1.0, 0, 2.5, 6, 7], requires_grad=True)
    (gradient,) = torch.autograd.grad(make_layer(BODY, (5,))(x).sum(), x)
    assert gradient.tolist() == [0, 0, 1, 0, 0]
    gradcheck(make_layer(BODY, (2, 3)), 4 * torch.randn(2, 3))


def test_onnx_equals_forward():
    net = make_net(
        inputs_text((2, 3, 4, 4))
        + 'layer { name: "p" type: "Power" bottom: "x0" top: "wide" power_param { scale: 9 } }'
        + f'layer {{ name: "L" bottom: "wide" top: "y" {BODY} }}'
    )
    check_onnx(net)


def test_slope_that_would_do_nothing_is_reported():
    make_layer(f"{BODY} relu6_param {{ negative_slope: 0 }}", (2,))
    with pytest.raises(NetError, match="no slope below 0: leave negative_slope out"):
        make_layer(f"{BODY} relu6_param {{ negative_slope: 0.1 }}", (2,))
