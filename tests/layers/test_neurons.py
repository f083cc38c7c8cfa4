from __future__ import annotations

import math

import pytest
import torch

from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, golden_case, gradcheck, layer_net, make_layer, run

BODIES = [
    'type: "ReLU"',
    'type: "ReLU" relu_param { negative_slope: 0.1 }',
    'type: "Sigmoid"',
    'type: "TanH"',
    'type: "ELU" elu_param { alpha: 0.7 }',
    'type: "Power" power_param { power: 2 scale: 0.5 shift: 1 }',
    'type: "Power" power_param { power: 3 }',
    'type: "Power" power_param { scale: -2 }',
    'type: "Power"',
]


@pytest.mark.parametrize(
    "name",
    [
        "relu",
        "relu_leaky",
        "sigmoid",
        "tanh",
        "elu",
        "power",
        "power_frac",
        "loss_on_any_top",
    ],
)
def test_neuron_equals_the_original(name):
    golden_case(name)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4, 2)])
def test_shape_and_gradient(body, shape):
    layer = make_layer(body, shape)
    x = torch.randn(shape) + 0.05  # away from the kink at 0
    run(layer, x)
    gradcheck(layer, x)


@pytest.mark.parametrize("slope", [0.0, 0.25, -1.0])
def test_relu_gradient_at_zero_is_the_slope(slope):
    layer = make_layer(f'type: "ReLU" relu_param {{ negative_slope: {slope} }}', (1,))
    x = torch.zeros(1, requires_grad=True)
    (grad,) = torch.autograd.grad(layer(x), x)
    assert grad.item() == slope


@pytest.mark.parametrize(
    ("param", "want"),
    [("power: 0", 1.0), ("scale: 0 shift: 3 power: 2", 9.0), ("scale: 0 shift: 2 power: -1", 0.5)],
)
def test_power_without_scale_or_power_is_constant(param, want):
    layer = make_layer(f'type: "Power" power_param {{ {param} }}', (3,))
    x = torch.tensor([-1.0, 0.0, math.inf])
    assert (run(layer, x)[0] == want).all()


def test_power_gradient_at_zero_is_the_mathematical_one():
    layer = make_layer('type: "Power" power_param { power: 3 }', (1,))
    x = torch.zeros(1, requires_grad=True)
    (grad,) = torch.autograd.grad(layer(x), x)
    assert grad.item() == 0


def test_power_of_a_broken_exponent_is_nan_below_zero():
    layer = make_layer('type: "Power" power_param { power: 0.5 }', (2,))
    assert run(layer, torch.tensor([-1.0, 4.0]))[0].isnan().tolist() == [True, False]


@pytest.mark.parametrize("body", BODIES)
def test_onnx_equals_forward(body):
    check_onnx(layer_net(body, (2, 3, 4), phase=pb.TEST))
