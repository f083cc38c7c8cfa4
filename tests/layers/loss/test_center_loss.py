from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from caffe_kd.core.errors import NetError
from tests.layers.loss_nets import input_net, layer_of

LABELS = torch.tensor([0.0, 2, 2, 2, 3])


def net_of(param="", x=(5, 3), label=(5,), extra=""):
    return input_net(
        {"x": x, "label": label},
        f'layer {{ name: "L" type: "CenterLoss" bottom: "x" bottom: "label" top: "loss" {extra} '
        f'center_loss_param {{ num_output: 4 center_filler {{ type: "gaussian" }} {param} }} }}',
    )


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 1, 1), (5, 2, 2)])
def test_center_loss_is_its_formula(shape):
    torch.manual_seed(0)
    layer = layer_of(net_of(x=shape)).double()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    rows, centers = x.detach().flatten(1).numpy(), layer.blobs[0].detach().numpy()
    assert centers.shape == (4, rows.shape[1])
    want = sum(((r - centers[int(y)]) ** 2).sum() for r, y in zip(rows, LABELS, strict=True))
    assert layer(x, LABELS).item() == pytest.approx(want / 10)
    layer.blobs[0].requires_grad_(False)
    assert gradcheck(lambda v: layer(v, LABELS), x)


def test_centers_move_by_the_sum_over_their_class_divided_by_one_more_than_it_counts():
    layer = layer_of(net_of())
    x, (centers,) = torch.randn(5, 3), layer.blobs
    (gradient,) = torch.autograd.grad(layer(x, LABELS), centers)
    want = np.zeros((4, 3), np.float32)
    for j in range(4):
        own = [n for n in range(5) if LABELS[n] == j]
        for n in own:
            want[j] += (centers[j] - x[n]).detach().numpy() / (1 + len(own))
    np.testing.assert_allclose(gradient.numpy(), want, rtol=1e-5, atol=1e-6)
    assert not gradient[1].any()  # a class that is not there keeps its center


def test_loss_weight_changes_the_gradient_of_features_and_not_that_of_centers():
    values = {"x": torch.randn(5, 3, requires_grad=True), "label": LABELS}
    gradients = {}
    for weight in (1, 0.25):
        torch.manual_seed(0)
        net = net_of(extra=f"loss_weight: {weight}")
        gradients[weight] = torch.autograd.grad(net(values), [values["x"], net.params[0].blob])
    torch.testing.assert_close(gradients[0.25][0], gradients[1][0] / 4)
    torch.testing.assert_close(gradients[0.25][1], gradients[1][1])


def test_centers_begin_at_zero_without_a_filler():
    net = input_net(
        {"x": (5, 3), "label": (5, 1)},
        'layer { name: "L" type: "CenterLoss" bottom: "x" bottom: "label" '
        "center_loss_param { num_output: 4 } }",
    )
    assert not net.params[0].blob.any()
    x = torch.randn(5, 3)
    torch.testing.assert_close(net({"x": x, "label": LABELS}), x.square().sum() / 10)


def test_centers_come_to_lie_in_the_middle_of_their_class():
    net, x = net_of(), torch.randn(5, 3)
    (center,) = (p.blob for p in net.params)
    for _ in range(80):
        (gradient,) = torch.autograd.grad(net({"x": x, "label": LABELS}), center)
        center.data -= gradient
    torch.testing.assert_close(center[2], x[1:4].mean(0))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"label": (4,)}, "same first dimension"),
        ({"label": (5, 2)}, "one label for each sample"),
        ({"x": (5, 3, 2), "param": "axis: 2"}, "axis must leave one vector for each sample"),
        ({"param": "axis: 2"}, "axis is out of range"),
    ],
)
def test_mistake_is_reported(arguments, words):
    with pytest.raises(NetError, match=words):
        net_of(**arguments)


def test_no_class_is_reported():
    with pytest.raises(NetError, match="num_output must be at least 1"):
        input_net(
            {"x": (5, 3), "label": (5,)},
            'layer { name: "L" type: "CenterLoss" bottom: "x" bottom: "label" }',
        )
    with pytest.raises(NetError, match=r"a label is out of range.*label=4, classes=4"):
        layer_of(net_of())(torch.zeros(5, 3), torch.full((5,), 4.0))
