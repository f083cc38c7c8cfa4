from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, golden_case, gradcheck, layer_net, make_layer, run

SHAPE = (3, 4, 2, 5)
FORMULAS = {
    "SUM": lambda row: row.sum(),
    "ASUM": lambda row: np.abs(row).sum(),
    "SUMSQ": lambda row: (row * row).sum(),
    "MEAN": lambda row: row.sum() / len(row),
}


def body(param: str) -> str:
    return f'type: "Reduction" reduction_param {{ {param} }}'


@pytest.mark.parametrize("name", ["reduction_asum", "reduction_mean", "reduction_sum"])
def test_reduction_equals_the_original(name):
    golden_case(name)


@pytest.mark.parametrize("operation", FORMULAS)
@pytest.mark.parametrize(("axis", "top"), [(0, ()), (1, (3,)), (-1, (3, 4, 2)), (-3, (3,))])
def test_reduction_is_its_formula_over_all_axes_behind(operation, axis, top):
    layer = make_layer(body(f"operation: {operation} axis: {axis} coeff: -0.5"), SHAPE)
    x = torch.randn(SHAPE, dtype=torch.float64)
    (y,) = run(layer, x)
    assert tuple(y.shape) == top
    rows = x.numpy().reshape(-1, x.numel() // max(1, y.numel()))
    want = [-0.5 * FORMULAS[operation](row) for row in rows]
    np.testing.assert_allclose(y.numpy().ravel(), want, rtol=1e-12)
    assert layer.per_sample == (axis != 0)
    gradcheck(layer, x)


def test_default_is_the_sum_of_everything():
    (y,) = run(make_layer('type: "Reduction"', (2, 3)), torch.ones(2, 3))
    assert tuple(y.shape) == ()
    assert y.item() == 6


def test_mean_follows_a_new_extent():
    layer = make_layer(body("operation: MEAN axis: 1"), (2, 3))
    np.testing.assert_array_equal(run(layer, torch.full((4, 8), 3.0))[0], [3] * 4)


def test_gradient_of_asum_at_zero_is_zero():
    x = torch.tensor([-2.0, 0.0, 2.0], requires_grad=True)
    (grad,) = torch.autograd.grad(make_layer(body("operation: ASUM"), (3,))(x), x)
    assert grad.tolist() == [-1, 0, 1]


@pytest.mark.parametrize("operation", FORMULAS)
@pytest.mark.parametrize("axis", [0, 1, 3])
def test_onnx_equals_forward(operation, axis):
    param = f"operation: {operation} axis: {axis} coeff: 0.7"
    check_onnx(layer_net(body(param), SHAPE, phase=pb.TEST))


@pytest.mark.parametrize("axis", [4, -5])
def test_axis_out_of_range_is_reported(axis):
    with pytest.raises(NetError, match="axis is out of range for a bottom of 4 axes"):
        make_layer(body(f"axis: {axis}"), SHAPE)
