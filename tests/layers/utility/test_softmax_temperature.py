from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, gradcheck, layer_net, make_layer, run


def body(param: str = "", extra: str = "") -> str:
    return f'type: "SoftmaxTemperature" softmax_temperature_param {{ {param} }} {extra}'


def by_hand(x, temperature, appended):
    """Return the softmax of each row, or of the row and a 0 without that one's share."""
    result = []
    for row in x:
        powers = [math.exp(temperature * value) for value in row]
        result.append([p / (sum(powers) + (1 if appended else 0)) for p in powers])
    return np.array(result)


@pytest.mark.parametrize("appended", [False, True])
@pytest.mark.parametrize("temperature", [0.5, 1, 3, -2])
def test_scores_are_multiplied(temperature, appended):
    x = torch.randn(4, 5, dtype=torch.float64)
    param = f"temperature: {temperature}" + (" is_append: true" if appended else "")
    (y,) = run(make_layer(body(param), (4, 5)), x)
    want = by_hand(x.tolist(), temperature, appended)
    np.testing.assert_allclose(y.numpy(), want, rtol=1e-12)


def test_default_is_the_plain_softmax():
    x = torch.randn(4, 5)
    torch.testing.assert_close(make_layer(body(), (4, 5))(x), torch.softmax(x, 1))


def test_appended_class_takes_what_small_scores_leave():
    layer = make_layer(body("is_append: true"), (1, 3))
    assert layer(torch.full((1, 3), -100.0)).sum() < 1e-30
    torch.testing.assert_close(layer(torch.full((1, 3), 100.0)).sum(), torch.tensor(1.0))
    torch.testing.assert_close(layer(torch.zeros(1, 3)), torch.full((1, 3), 0.25))


@pytest.mark.parametrize("append", ["true", "false"])
@pytest.mark.parametrize(("shape", "axis"), [((3, 4), 1), ((2, 3, 2, 2), 1), ((2, 3, 4), -1)])
def test_shape_gradient_and_onnx(shape, axis, append):
    text = body(f"temperature: 3 is_append: {append}", f"softmax_param {{ axis: {axis} }}")
    layer, x = make_layer(text, shape), torch.randn(shape)
    (y,) = run(layer, x)
    sums = y.sum(axis)
    assert (sums < 1).all() if append == "true" else torch.allclose(sums, torch.ones_like(sums))
    gradcheck(layer, x)
    check_onnx(layer_net(text, shape, phase=pb.TEST))


def test_onnx_over_the_batch_equals_forward():
    text = body("is_append: true", "softmax_param { axis: 0 }")
    check_onnx(layer_net(text, (3, 4), phase=pb.TEST))


@pytest.mark.parametrize(
    ("param", "extra", "words"),
    [
        ("temperature: inf", "", "temperature must be finite"),
        ("", "softmax_param { axis: 2 }", "axis is out of range"),
    ],
)
def test_mistake_is_reported(param, extra, words):
    with pytest.raises(NetError, match=words):
        make_layer(body(param, extra), (2, 3))
