import math

import pytest
import torch
from torch.autograd import gradcheck

from caffe_kd.core.errors import NetError
from tests.helpers import golden_case
from tests.layers.loss_nets import input_net, layer_of


def loss_net(settings="", scores=(4, 5), targets=(4, 5)):
    return input_net(
        {"x": scores, "t": targets},
        f'layer {{ name: "L" type: "SigmoidCrossEntropyLoss" bottom: "x" bottom: "t" {settings} }}',
    )


def test_sigmoid_cross_entropy_loss_matches_caffe():
    golden_case("sigmoid_ce")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("", 5),
        ("loss_param { normalization: VALID }", 1),
        ("loss_param { normalize: true }", 1),
        ("loss_param { normalize: false }", 5),
        ("loss_param { normalization: FULL ignore_label: 1 }", 0.5),
        ("loss_param { ignore_label: 1 }", 2.5),
        ("loss_param { normalization: NONE }", 20),
    ],
)
def test_sigmoid_cross_entropy_loss_divides_as_loss_param_says(settings, expected):
    targets = torch.zeros(4, 5)
    targets.view(-1)[::2] = 1
    net = loss_net(settings)
    assert float(net({"t": targets})) == pytest.approx(expected * math.log(2))
    assert net.shapes["(automatic)"] == ()


def test_sigmoid_cross_entropy_loss_gradient_is_for_the_scores_alone():
    layer = layer_of(loss_net("loss_param { ignore_label: 1 normalization: VALID }"))
    targets = torch.randint(0, 2, (4, 5)).double()
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda z: layer(z, targets), x)
    net = loss_net()
    t = torch.rand(4, 5, requires_grad=True)
    objective = net({"x": x.float(), "t": t})
    assert torch.autograd.grad(objective, t, allow_unused=True) == (None,)


@pytest.mark.parametrize(("targets", "text"), [((4, 4), "same count"), ((5, 4), "same first dim")])
def test_sigmoid_cross_entropy_loss_of_unequal_bottoms_fails(targets, text):
    with pytest.raises(NetError, match=text):
        loss_net(targets=targets)
