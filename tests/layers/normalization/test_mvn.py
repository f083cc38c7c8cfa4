from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, golden_case, gradcheck, layer_net, make_layer, run

PARAMS = [
    "",
    "across_channels: true",
    "normalize_variance: false",
    "normalize_variance: false across_channels: true",
]


def mvn(param: str, shape=(2, 3, 4, 5)):
    return make_layer(f'type: "MVN" mvn_param {{ {param} }}', shape)


@pytest.mark.parametrize("name", ["mvn", "mvn_across"])
def test_mvn_equals_the_original(name):
    golden_case(name)


@pytest.mark.parametrize("param", PARAMS)
def test_mvn_is_its_formula_and_its_gradient(param):
    layer = mvn(param + " eps: 0.1")
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64) * 3 + 1
    rows = x.numpy().reshape(2 if layer.param.across_channels else 6, -1)
    want = rows - rows.mean(1, keepdims=True)
    if layer.param.normalize_variance:
        want /= rows.std(1, keepdims=True) + layer.param.eps
    np.testing.assert_allclose(run(layer, x)[0].numpy().reshape(rows.shape), want, atol=1e-12)
    gradcheck(mvn(param), x)  # with the eps that is no part of the derivative to speak of


@pytest.mark.parametrize(
    ("shape", "top"), [((), (1, 1, 1, 1)), ((4,), (4, 1, 1, 1)), ((2, 3, 5), (2, 3, 5, 1))]
)
def test_top_has_four_axes(shape, top):
    assert tuple(run(mvn("", shape), torch.randn(shape))[0].shape) == top


def test_single_values_become_zero_unless_taken_together():
    x = torch.tensor([[1.0, 3.0]])
    assert run(mvn("", (1, 2)), x)[0].flatten().tolist() == [0, 0]
    (y,) = run(mvn("across_channels: true", (1, 2)), x)
    torch.testing.assert_close(y.flatten(), torch.tensor([-1.0, 1.0]))


@pytest.mark.parametrize("eps", [1e-9, 0.5])
def test_gradient_is_the_originals_where_eps_counts(eps):
    """It takes eps for a part of the deviation; the derivative would be NaN for equal values."""
    layer = mvn(f"eps: {eps}", (2, 1, 2, 3))
    x = torch.stack([torch.full((1, 2, 3), 2.0), torch.randn(1, 2, 3)]).double().requires_grad_()
    g = torch.randn(2, 1, 2, 3, dtype=torch.float64)
    y = layer(x)
    (grad,) = torch.autograd.grad(y, x, g)
    for i in range(2):
        divisor = x[i].std(correction=0) + layer.param.eps
        want = (g[i] - g[i].mean() - y[i] * (g[i] * y[i]).mean()) / divisor
        torch.testing.assert_close(grad[i], want)


def test_channels_last_gives_the_same_numbers():
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(mvn("")(x.contiguous(memory_format=torch.channels_last)), mvn("")(x))


@pytest.mark.parametrize("param", PARAMS)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 6)])
def test_onnx_equals_forward(param, shape):
    check_onnx(layer_net(f'type: "MVN" mvn_param {{ {param} }}', shape, phase=pb.TEST))


def test_five_axes_are_refused():
    with pytest.raises(NetError, match="Cannot use legacy accessors on Blobs with > 4 axes"):
        mvn("", (1, 2, 3, 4, 5))
