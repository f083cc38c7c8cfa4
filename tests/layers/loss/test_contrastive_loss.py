from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from caffe_kd.core.errors import NetError
from tests.helpers import golden_case
from tests.layers.loss_nets import input_net, layer_of


def net_of(param="", a=(4, 3), b=(4, 3), label=(4,)):
    return input_net(
        {"a": a, "b": b, "label": label},
        'layer { name: "L" type: "ContrastiveLoss" bottom: "a" bottom: "b" bottom: "label" '
        f'top: "loss" contrastive_loss_param {{ {param} }} }}',
    )


@pytest.fixture
def pairs():
    """Four pairs at distances 0.5 to 2, of both kinds, and their labels."""
    torch.manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(4, 3, dtype=torch.float64), dim=1)
    a = torch.randn(4, 3, dtype=torch.float64)
    b = a + direction * torch.tensor([[0.5], [0.5], [2.0], [2.0]])
    return a.requires_grad_(), b.requires_grad_(), torch.tensor([1.0, 0, 1, 0]).double()


def test_contrastive_loss_matches_caffe():
    golden_case("contrastive")


@pytest.mark.parametrize(
    ("param", "apart"),
    [
        ("", lambda d: max(1 - d, 0) ** 2),
        ("margin: 3", lambda d: max(3 - d, 0) ** 2),
        ("legacy_version: true", lambda d: max(1 - d * d, 0)),
        ("legacy_version: true margin: 5", lambda d: max(5 - d * d, 0)),
    ],
)
def test_contrastive_loss_is_its_formula(pairs, param, apart):
    a, b, label = pairs
    want = 0.0
    for x, y, similar in zip(a.tolist(), b.tolist(), label.tolist(), strict=True):
        d = np.linalg.norm(np.subtract(x, y))
        want += d * d if similar else apart(d)
    layer = layer_of(net_of(param))
    assert layer(a, b, label).item() == pytest.approx(want / 8)
    assert gradcheck(lambda p, q: layer(p, q, label), (a, b))


def test_gradient_divides_by_the_distance_and_a_little():
    a = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    b = torch.tensor([[3e-4, 4e-4]], dtype=torch.float64)
    loss = layer_of(net_of(a=(1, 2), b=(1, 2), label=(1,)))(a, b, torch.zeros(1))
    (gradient,) = torch.autograd.grad(loss, a)
    want = (1 - 5e-4) / (5e-4 + 1e-4) * np.array([3e-4, 4e-4])  # without the little: 1 - 5e-4 long
    np.testing.assert_allclose(gradient[0].numpy(), want, rtol=1e-9)


@pytest.mark.parametrize("legacy", ["true", "false"])
def test_equal_features_to_be_kept_apart_have_a_loss_but_no_direction(legacy):
    a, b = (torch.ones(1, 2, requires_grad=True) for _ in "ab")
    net = net_of(f"legacy_version: {legacy}", a=(1, 2), b=(1, 2), label=(1,))
    loss = layer_of(net)(a, b, torch.zeros(1))
    assert loss.item() == 0.5
    for gradient in torch.autograd.grad(loss, (a, b)):
        assert gradient.tolist() == [[0, 0]]


def test_labels_are_cut_to_whole_numbers(pairs):
    a, b, _ = pairs
    layer = layer_of(net_of())
    cut = layer(a, b, torch.tensor([0.9, -0.9, 1.5, 7]))
    assert torch.equal(cut, layer(a, b, torch.tensor([0.0, 0, 1, 1])))


def test_features_may_have_axes_of_extent_one(pairs):
    a, b, label = pairs
    wide = layer_of(net_of(a=(4, 3, 1, 1), label=(4, 1, 1, 1)))
    value = wide(a.view(4, 3, 1, 1), b, label.view(4, 1, 1, 1))
    assert torch.equal(value, layer_of(net_of())(a, b, label))


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"b": (4, 2)}, "must have the same number of channels"),
        ({"b": (3, 3)}, "must have the same number of channels"),
        ({"a": (4, 3, 2, 1), "b": (4, 3, 2, 1)}, "height 1 and width 1"),
        ({"label": (4, 2)}, "one label for each pair"),
        ({"label": (3,)}, "one label for each pair"),
    ],
)
def test_mistake_is_reported(shapes, words):
    with pytest.raises(
        NetError, match=rf"net.prototxt:4: layer 'L' \(ContrastiveLoss\): .*{words}"
    ):
        net_of(**shapes)
