from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck

from caffe_kd.core.errors import NetError
from tests.layers.loss_nets import input_net, layer_of

NAMES = ("x", "t", "inside", "outside")


def net_of(param="", shape=(3, 4), count=2, **shapes):
    shapes = {n: shapes.get(n, shape) for n in NAMES[:count]}
    bottoms = " ".join(f'bottom: "{n}"' for n in shapes)
    return input_net(
        shapes,
        f'layer {{ name: "L" type: "SmoothL1Loss" {bottoms} top: "loss" '
        f"smooth_l1_loss_param {{ {param} }} }}",
    )


def by_hand(x, t, inside, outside, sigma):
    values = zip(*(v.flatten().tolist() for v in (x, t, inside, outside)), strict=True)
    total = 0.0
    for a, b, w_in, w_out in values:
        d = abs(w_in * (a - b))
        near = d < 1 / sigma**2
        total += w_out * (0.5 * (sigma * d) ** 2 if near else d - 0.5 / sigma**2)
    return total / len(x)


@pytest.mark.parametrize("sigma", [None, 1, 3, 0.5])
@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("shape", [(3, 4), (2, 4, 3, 2)])
def test_smooth_l1_loss_is_its_formula(sigma, count, shape):
    torch.manual_seed(0)
    x, t = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in "xt")
    weights = [torch.rand(shape, dtype=torch.float64) for _ in range(count - 2)]
    ones = torch.ones(shape)
    layer = layer_of(net_of("" if sigma is None else f"sigma: {sigma}", shape, count))
    loss = layer(x, t, *weights)
    want = by_hand(x, t, *(*weights, ones, ones)[:2], sigma or 1)
    assert loss.item() == pytest.approx(want)
    assert gradcheck(lambda a, b: layer(a, b, *weights), (x, t))


def test_gradient_is_bounded_and_0_on_the_target():
    x = torch.tensor([[-50.0, 0, 0.25, 50]], requires_grad=True)
    loss = layer_of(net_of(shape=(1, 4)))(x, torch.zeros(1, 4))
    assert torch.autograd.grad(loss, x)[0].tolist() == [[-1, 0, 0.25, 1]]


def test_targets_get_a_gradient_and_weights_none():
    net = net_of(count=4)
    values = {n: torch.randn(3, 4, requires_grad=True) for n in NAMES}
    gradients = torch.autograd.grad(net(values), list(values.values()), allow_unused=True)
    assert gradients[0].any()
    assert torch.equal(gradients[0], -gradients[1])
    assert gradients[2:] == (None, None)


@pytest.mark.parametrize(
    ("param", "count", "shapes", "words"),
    [
        ("", 2, {"t": (2, 4)}, "same first dimension"),
        ("", 2, {"t": (3, 5)}, "bottoms must have the same number of values.*bottom1"),
        ("", 4, {"outside": (3, 1)}, "bottoms must have the same number of values.*bottom3"),
        ("", 2, {"x": (), "t": ()}, "at least 1 axis"),
        ("sigma: 0", 2, {}, "sigma must be above 0"),
    ],
)
def test_mistake_is_reported(param, count, shapes, words):
    with pytest.raises(NetError, match=words):
        net_of(param, count=count, **shapes)
