from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck

from caffe_kd.core.errors import NetError
from tests.helpers import golden_case
from tests.layers.loss_nets import input_net, layer_of


def net_of(param="", scores=(5, 4), label=(5,)):
    return input_net(
        {"x": scores, "label": label},
        'layer { name: "L" type: "HingeLoss" bottom: "x" bottom: "label" top: "loss" '
        f"hinge_loss_param {{ {param} }} }}",
    )


def test_hinge_loss_matches_caffe():
    golden_case("hinge_l1")


@pytest.mark.parametrize(("param", "power"), [("", 1), ("norm: L1", 1), ("norm: L2", 2)])
@pytest.mark.parametrize(("scores", "label"), [((5, 4), (5,)), ((5, 2, 2), (5, 1, 1, 1))])
def test_hinge_loss_is_its_formula(param, power, scores, label):
    torch.manual_seed(0)
    x = torch.randn(scores, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 3]).view(label).double()
    want = 0.0
    for row, own in zip(x.flatten(1).tolist(), labels.flatten().tolist(), strict=True):
        for index, value in enumerate(row):
            want += max(0.0, 1 - value if index == own else 1 + value) ** power
    layer = layer_of(net_of(param, scores, label))
    assert layer(x, labels).item() == pytest.approx(want / 5)
    assert gradcheck(lambda v: layer(v, labels), x)


def test_score_on_the_margin_gives_no_gradient():
    x = torch.tensor([[1.0, -1.0]], requires_grad=True)
    loss = layer_of(net_of(scores=(1, 2), label=(1,)))(x, torch.zeros(1))
    assert loss.item() == 0
    assert torch.autograd.grad(loss, x)[0].tolist() == [[0, 0]]


@pytest.mark.parametrize("label", [(4,), (5, 4), ()])
def test_one_label_for_each_record_is_asked_for(label):
    with pytest.raises(NetError, match="same first dimension|one label for each sample"):
        net_of(label=label)


def test_label_that_is_no_class_is_reported():
    with pytest.raises(NetError, match=r"a label is out of range.*label=4, classes=4"):
        layer_of(net_of())(torch.zeros(5, 4), torch.full((5,), 4.0))
