from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, layer_net, make_layer, run

BODY = 'type: "LSTMUnit"'
SHAPES = (1, 3, 4), (1, 3, 16), (1, 3)
TOLERANCE = 1e-6  # float32 against float64


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def reference(c_prev, gates, cont):
    i, f, o, g = np.split(gates, 4, axis=-1)
    c = cont[..., None] * sigmoid(f) * c_prev + sigmoid(i) * np.tanh(g)
    return c, sigmoid(o) * np.tanh(c)


def bottoms(cont):
    return torch.randn(SHAPES[0]), torch.randn(SHAPES[1]), torch.tensor([cont])


@pytest.mark.parametrize("cont", [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.5, 1.0, 0.25]])
def test_unit_equals_its_formula(cont):
    values = bottoms(cont)
    tops = run(make_layer(BODY, *SHAPES, tops=2), *values)
    wanted = reference(*(v.numpy().astype(np.float64) for v in values))
    for top, want in zip(tops, wanted, strict=True):
        assert np.abs(top.numpy() - want).max() < TOLERANCE


def test_gradient_of_state_and_gates():
    layer = make_layer(BODY, *SHAPES, tops=2)
    c_prev, gates, cont = bottoms([1.0, 0.0, 1.0])
    values = [v.double().requires_grad_() for v in (c_prev, gates)]
    assert torch.autograd.gradcheck(lambda c, g: layer(c, g, cont.double()), values)


def test_gradient_where_cont_is_a_fraction_is_the_originals():
    """It takes ``f (1 - f)`` of the f that cont has scaled, which is not the derivative."""
    layer = make_layer(BODY, *SHAPES, tops=2)
    c_prev, gates, cont = bottoms([0.5, 0.5, 0.5])
    gates.requires_grad_()
    layer(c_prev, gates, cont)[0].sum().backward()
    f = 0.5 * gates[..., 4:8].sigmoid()
    torch.testing.assert_close(gates.grad[..., 4:8], c_prev * f * (1 - f))


def test_no_gradient_to_cont():
    net = layer_net(BODY, *SHAPES, tops=2)
    inputs = {f"x{i}": v.requires_grad_() for i, v in enumerate(bottoms([1.0, 1.0, 0.0]))}
    net.forward(inputs)
    (net.blobs["y0"].sum() + net.blobs["y1"].sum()).backward()
    assert inputs["x0"].grad is not None and inputs["x1"].grad is not None
    assert inputs["x2"].grad is None


@pytest.mark.parametrize(
    "shapes",
    [((1, 3, 4), (1, 3, 12), (1, 3)), ((3, 4), (3, 16), (3,)), ((1, 3, 4), (1, 3, 16), (3, 1))],
)
def test_bottoms_that_do_not_fit_are_reported(shapes):
    with pytest.raises(NetError, match=r"layer 'L' \(LSTMUnit\): the bottoms must be \(1, N, D\)"):
        make_layer(BODY, *shapes, tops=2)


def test_onnx_equals_forward():
    check_onnx(layer_net(BODY, *SHAPES, tops=2, phase=pb.TEST))
