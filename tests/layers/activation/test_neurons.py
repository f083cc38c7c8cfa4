from __future__ import annotations

import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import (
    check_onnx,
    golden_case,
    gradcheck,
    inputs_text,
    layer_net,
    make_layer,
    make_net,
    run,
)

BODIES = [
    'type: "ReLU"',
    'type: "ReLU" relu_param { negative_slope: 0.1 }',
    'type: "Sigmoid"',
    'type: "TanH"',
    'type: "ELU" elu_param { alpha: 0.7 }',
    'type: "AbsVal"',
    'type: "BNLL"',
    'type: "Clip" clip_param { min: -0.4 max: 0.3 }',
    'type: "Swish"',
    'type: "Swish" swish_param { beta: 0.3 }',
]
THRESHOLD = 'type: "Threshold" threshold_param { threshold: 0.3 }'


@pytest.mark.parametrize(
    "name",
    [
        "relu",
        "relu_leaky",
        "sigmoid",
        "tanh",
        "elu",
        "absval",
        "clip",
        "threshold",
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


@pytest.mark.parametrize("body", [*BODIES, THRESHOLD])
def test_onnx_equals_forward(body):
    check_onnx(layer_net(body, (2, 3, 4), phase=pb.TEST))


def values_and_gradient(body, values):
    layer = make_layer(body, (len(values),))
    x = torch.tensor(values, requires_grad=True)
    (y,) = run(layer, x)
    (grad,) = torch.autograd.grad(y.sum(), x)
    return y.tolist(), grad.tolist()


@pytest.mark.parametrize("slope", [0.0, 0.25, -1.0])
def test_relu_gradient_at_zero_is_the_slope(slope):
    body = f'type: "ReLU" relu_param {{ negative_slope: {slope} }}'
    assert values_and_gradient(body, [0.0])[1] == [slope]


def test_absval_gradient_at_zero_is_zero():
    y, grad = values_and_gradient('type: "AbsVal"', [-2.0, 0.0, 3.0])
    assert y == [2, 0, 3]
    assert grad == [-1, 0, 1]


def test_absval_in_place_is_refused():
    with pytest.raises(NetError, match="AbsVal Layer does not allow in-place computation"):
        make_net(
            inputs_text((2,)) + 'layer { name: "a" type: "AbsVal" bottom: "x0" top: "x0" }',
        )


def test_bnll_is_exact_far_from_zero():
    """Torch's softplus turns into the rectifier above 20; BNLL does not, nor does it overflow."""
    layer = make_layer('type: "BNLL"', (4,))
    x = torch.tensor([-700.0, 0.0, 25.0, 5000.0], dtype=torch.float64, requires_grad=True)
    y = layer(x)
    want = torch.tensor([-700.0, 0, 25, 5000], dtype=torch.float64)
    torch.testing.assert_close(y, torch.logaddexp(want, torch.zeros_like(want)), rtol=1e-14, atol=0)
    assert y[2].item() != 25
    (grad,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(grad, torch.sigmoid(want), rtol=1e-14, atol=0)


def test_clip_bounds_belong_to_the_range():
    body = 'type: "Clip" clip_param { min: -1 max: 2 }'
    y, grad = values_and_gradient(body, [-1.5, -1.0, 0.5, 2.0, 2.5])
    assert y == [-1, -1, 0.5, 2, 2]
    assert grad == [0, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("param", "words"),
    [
        ("", "missing required fields: clip_param.min, clip_param.max"),
        ("clip_param { min: 1 }", "missing required fields: clip_param.max"),
        ("clip_param { min: 1 max: 0 }", "min must not exceed max. Received: min=1.0, max=0.0"),
        ("clip_param { min: nan max: 0 }", "min must not exceed max"),
    ],
)
def test_clip_without_a_range_is_refused(param, words):
    with pytest.raises(NetError, match=words):
        make_layer(f'type: "Clip" {param}', (2,))


def test_swish_of_beta_zero_is_half_the_value():
    y, grad = values_and_gradient('type: "Swish" swish_param { beta: 0 }', [-2.0, 3.0])
    assert y == [-1, 1.5]
    assert grad == [0.5, 0.5]


def test_threshold_is_strict():
    layer = make_layer('type: "Threshold" threshold_param { threshold: 0.5 }', (3,))
    assert run(layer, torch.tensor([0.25, 0.5, 0.75]))[0].tolist() == [0, 0, 1]
    assert layer(torch.ones(1, dtype=torch.float64)).dtype == torch.float64


THRESHOLD_NET = """
layer { name: "scale" type: "Scale" bottom: "x0" top: "scaled" }
layer { name: "L" type: "Threshold" bottom: "scaled" top: "t" PROPAGATE }
layer { name: "zero" type: "Power" bottom: "x0" top: "zero" power_param { scale: 0 } }
layer { name: "loss" type: "EuclideanLoss" bottom: "LOSS" bottom: "zero" top: "loss" }
"""


def threshold_objective(loss_of, propagate_down=""):
    text = THRESHOLD_NET.replace("LOSS", loss_of).replace("PROPAGATE", propagate_down)
    net = make_net(inputs_text((2, 3)) + text, pb.TRAIN)
    return net({"x0": torch.ones(2, 3)})


def test_threshold_between_parameters_and_a_loss_ends_the_backward_pass():
    objective = threshold_objective("t")
    with pytest.raises(NetError) as error:
        objective.backward()
    message = str(error.value)
    assert message.startswith("net.prototxt:")
    assert "layer 'L' (Threshold): Not Implemented Yet: Threshold has no gradient" in message


def test_threshold_beside_the_way_to_the_loss_is_no_matter():
    threshold_objective("scaled").backward()


def test_threshold_that_propagates_nothing_is_a_constant():
    assert not threshold_objective("t", "propagate_down: false").requires_grad
