import pytest
import torch

from caffe_kd.core.errors import NetError
from tests.helpers import gradcheck
from tests.layers.loss_nets import input_net, layer_of
from tests.layers.soft_losses import (
    check_edge_cases,
    hold_deployment,
    hold_teacher_gets_no_gradient,
)
from tests.losses.reference_values import REFERENCE


def loss_net(settings="", student=(8, 10), teacher=None, extra=""):
    return input_net(
        {"s": student, "t": teacher or student},
        'layer { name: "L" type: "DISTLoss" bottom: "s" bottom: "t" top: "loss" '
        f"{extra} dist_loss_param {{ {settings} }} }}",
    )


@pytest.fixture
def values():
    """The reference logits."""
    torch.manual_seed(0)
    return {"s": torch.randn(8, 10) * 3, "t": torch.randn(8, 10) * 3}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("", 1.689583),
        ("gamma: 0", 0.927766),
        ("beta: 0", 0.761817),
        ("beta: 2 gamma: 3", 2 * 0.927766 + 3 * 0.761817),
    ],
)
def test_dist_loss_matches_the_reference_values(values, settings, expected):
    net = loss_net(settings)
    assert float(net(values)) == pytest.approx(expected, rel=REFERENCE)
    assert net.shapes["loss"] == net.blobs["loss"].shape == ()


def test_dist_loss_has_the_square_of_its_temperature(values):
    hot = float(loss_net("temperature: 4")(values))
    cooled = float(loss_net()({k: v / 4 for k, v in values.items()}))
    assert hot == pytest.approx(16 * cooled)


def test_dist_loss_of_an_equal_student_is_zero(values):
    loss = loss_net()({"s": values["s"], "t": values["s"].clone()})
    assert float(loss) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("axis", [1, -1])
def test_dist_loss_gradient(axis):
    torch.manual_seed(0)
    net = loss_net(f"axis: {axis} temperature: 2", (3, 4, 2))
    gradcheck(layer_of(net), torch.randn(3, 4, 2), torch.randn(3, 4, 2))


def test_dist_loss_gives_the_teacher_no_gradient_unless_asked(values):
    hold_teacher_gets_no_gradient(loss_net, values)


def test_dist_loss_of_one_record_or_constant_logits_is_finite():
    check_edge_cases(lambda n: loss_net(student=(n, 10)))


def test_dist_loss_is_absent_from_deployment():
    hold_deployment('type: "DISTLoss"', label=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"teacher": (8, 7)}, "same number of classes"),
        ({"teacher": (4, 10)}, "logits of the same shape"),
        ({"settings": "beta: -1"}, "beta must be at least 0"),
        ({"settings": "gamma: nan"}, "gamma must be at least 0"),
        ({"settings": "axis: 2"}, "axis is out of range"),
    ],
)
def test_dist_loss_that_cannot_be_is_refused(arguments, words):
    with pytest.raises(NetError, match=rf"layer 'L' \(DISTLoss\): .*{words}"):
        loss_net(**arguments)
