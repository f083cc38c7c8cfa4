import pytest
import torch
from torch.autograd import gradcheck

from caffe_kd.core.errors import NetError
from tests.helpers import golden_case
from tests.layers.loss_nets import input_net, layer_of


def loss_net(a, b):
    return input_net(
        {"a": a, "b": b},
        'layer { name: "L" type: "EuclideanLoss" bottom: "a" bottom: "b" top: "y" }',
    )


def test_euclidean_loss_matches_caffe():
    golden_case("euclidean")


def test_euclidean_loss_matches_the_reference_value():
    torch.manual_seed(0)
    a, b = torch.randn(8, 10) * 3, torch.randn(8, 10) * 3
    assert float(loss_net((8, 10), (8, 10))({"a": a, "b": b})) == pytest.approx(91.475166, rel=1e-6)


def test_euclidean_loss_takes_bottoms_of_the_same_count():
    net = loss_net((2, 3), (2, 3, 1, 1))
    loss = net({"a": torch.ones(2, 3), "b": torch.zeros(2, 3, 1, 1)})
    assert float(loss) == 1.5
    assert net.shapes["y"] == loss.shape == ()


def test_euclidean_loss_gradient_of_both_bottoms():
    a, b = (torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert gradcheck(layer_of(loss_net((2, 3), (2, 3))), (a, b))


@pytest.mark.parametrize(
    ("shape", "text"), [((2, 4), "Inputs must have the same dimension"), ((3, 2), "same first dim")]
)
def test_euclidean_loss_of_unequal_bottoms_fails(shape, text):
    with pytest.raises(NetError, match=text):
        loss_net((2, 3), shape)
