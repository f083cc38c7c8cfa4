from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, golden_case, gradcheck, layer_net, make_layer, run

BODIES = [
    'type: "Power" power_param { power: 2 scale: 0.5 shift: 1 }',
    'type: "Power" power_param { power: 3 }',
    'type: "Power" power_param { scale: -2 }',
    'type: "Power"',
    'type: "Exp"',
    'type: "Exp" exp_param { base: 2 scale: -0.5 shift: 1.5 }',
    'type: "Exp" exp_param { base: 0.5 shift: -1 }',
    'type: "Exp" exp_param { scale: 0.5 shift: 2 }',
    'type: "Log" log_param { shift: 9 }',
    'type: "Log" log_param { base: 10 scale: 0.5 shift: 7 }',
    'type: "Log" log_param { base: 0.5 scale: -1 shift: 8 }',
]


@pytest.mark.parametrize("name", ["power", "power_frac", "exp", "log"])
def test_power_equals_the_original(name):
    golden_case(name)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4, 2)])
def test_shape_and_gradient(body, shape):
    layer = make_layer(body, shape)
    x = torch.randn(shape)
    run(layer, x)
    gradcheck(layer, x)


@pytest.mark.parametrize("body", BODIES)
def test_onnx_equals_forward(body):
    check_onnx(layer_net(body, (2, 3, 4), phase=pb.TEST))


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


@pytest.mark.parametrize("base", [-1, 2, 0.5, 10])
@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (0.5, 3), (-2, 0.25), (0, 2)])
def test_exp_and_log_are_their_formulas(base, scale, shift):
    param = f"base: {base} scale: {scale} shift: {shift}"
    x = torch.linspace(-1, 0.1, 7, dtype=torch.float64)
    inner = shift + scale * x.numpy()
    number = math.e if base == -1 else base
    exp = make_layer(f'type: "Exp" exp_param {{ {param} }}', (7,))
    np.testing.assert_allclose(exp(x), number**inner, rtol=1e-12)
    log = make_layer(f'type: "Log" log_param {{ {param} }}', (7,))
    with np.errstate(all="ignore"):  # of 0 and below: -inf and NaN
        np.testing.assert_allclose(log(x), np.log(inner) / np.log(number), rtol=1e-12, atol=1e-15)


def test_exp_with_a_large_shift_does_not_overflow_on_the_way():
    layer = make_layer('type: "Exp" exp_param { base: 10 shift: 400 }', (1,))
    torch.testing.assert_close(layer(torch.tensor([-400.0])), torch.ones(1))


@pytest.mark.parametrize(
    ("type_name", "base", "words"),
    [
        ("Exp", "0", "base must be strictly positive, or -1 for e. Received: base=0.0"),
        ("Exp", "-2", "base must be strictly positive"),
        ("Log", "-0.5", "base must be strictly positive"),
        ("Log", "nan", "base must be strictly positive"),
        ("Exp", "inf", r"Inf result: log\(base\) must be finite"),
        ("Log", "1", r"Inf result: 1/log\(base\) must be finite. Received: base=1.0"),
    ],
)
def test_base_without_a_logarithm_is_refused(type_name, base, words):
    with pytest.raises(NetError, match=words):
        make_layer(f'type: "{type_name}" {type_name.lower()}_param {{ base: {base} }}', (2,))


def test_exp_to_base_one_is_constant():
    layer = make_layer('type: "Exp" exp_param { base: 1 shift: 3 }', (2,))
    assert layer(torch.randn(2)).tolist() == [1, 1]
