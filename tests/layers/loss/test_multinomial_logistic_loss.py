from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck

from caffe_kd.core.errors import NetError
from tests.helpers import golden_case
from tests.layers.loss_nets import input_net, layer_of


def net_of(probabilities=(5, 4), label=(5,)):
    return input_net(
        {"p": probabilities, "label": label},
        'layer { name: "L" type: "MultinomialLogisticLoss" bottom: "p" bottom: "label" '
        'top: "loss" }',
    )


def test_multinomial_logistic_loss_matches_caffe():
    golden_case("multinomial")


def test_behind_a_softmax_it_is_softmax_with_loss():
    net = input_net(
        {"x": (5, 4), "label": (5,)},
        """
        layer { name: "p" type: "Softmax" bottom: "x" top: "p" }
        layer { name: "a" type: "MultinomialLogisticLoss" bottom: "p" bottom: "label" top: "a" }
        layer { name: "b" type: "SoftmaxWithLoss" bottom: "x" bottom: "label" top: "b" }
        """,
    )
    x = torch.randn(5, 4, requires_grad=True)
    net({"x": x, "label": torch.tensor([0.0, 1, 2, 3, 1])})
    torch.testing.assert_close(net.blobs["a"], net.blobs["b"])
    gradients = [torch.autograd.grad(net.blobs[n], x, retain_graph=True)[0] for n in "ab"]
    torch.testing.assert_close(*gradients)


def test_gradient():
    p = (torch.rand(3, 2, 2, dtype=torch.float64) + 0.1).requires_grad_()
    layer = layer_of(net_of((3, 2, 2), (3, 1)))
    assert gradcheck(lambda v: layer(v, torch.tensor([[0.0], [3], [2]])), p)


@pytest.mark.parametrize("p", [0.0, 1e-30, -0.5])
def test_probability_below_1e_20_counts_as_that_in_value_and_gradient(p):
    probabilities = torch.tensor([[p, 1.0]], dtype=torch.float64, requires_grad=True)
    loss = layer_of(net_of((1, 2), (1,)))(probabilities, torch.zeros(1))
    (gradient,) = torch.autograd.grad(loss, probabilities)
    assert loss.item() == pytest.approx(20 * math.log(10))
    assert gradient.tolist() == [[pytest.approx(-1e20), 0]]


@pytest.mark.parametrize("label", [(4,), (5, 4)])
def test_one_label_for_each_record_is_asked_for(label):
    with pytest.raises(NetError, match="same first dimension|one label for each sample"):
        net_of(label=label)


def test_label_that_is_no_class_is_reported():
    with pytest.raises(NetError, match=r"a label is out of range.*label=-1, classes=4"):
        layer_of(net_of())(torch.ones(5, 4), torch.full((5,), -1.0))
