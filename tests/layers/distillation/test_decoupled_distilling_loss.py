import pytest
import torch
from torch.autograd import gradcheck

from caffe_kd.core.errors import NetError
from tests.layers.loss_nets import input_net, layer_of
from tests.layers.soft_losses import (
    check_edge_cases,
    hold_deployment,
    hold_teacher_gets_no_gradient,
)
from tests.losses.reference_values import REFERENCE


def loss_net(settings="", student=(8, 10), teacher=None, label=None, extra=""):
    shapes = {"s": student, "t": teacher or student, "label": label or (student[0],)}
    return input_net(
        shapes,
        'layer { name: "L" type: "DecoupledDistillingLoss" bottom: "s" bottom: "t" '
        f'bottom: "label" top: "loss" {extra} decoupled_distilling_loss_param {{ {settings} }} }}',
    )


@pytest.fixture
def values():
    """The reference logits and labels."""
    torch.manual_seed(0)
    student, teacher = torch.randn(8, 10) * 3, torch.randn(8, 10) * 3
    return {"s": student, "t": teacher, "label": torch.arange(8.0)}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("", 67.167091),
        ("alpha: 1 beta: 0", 0.206221),
        ("alpha: 0 beta: 1", 8.370108),
        ("alpha: 2 beta: 0.5", 2 * 0.206221 + 0.5 * 8.370108),
    ],
)
def test_decoupled_loss_matches_the_reference_values(values, settings, expected):
    net = loss_net(settings)
    assert float(net(values)) == pytest.approx(expected, rel=REFERENCE)
    assert net.shapes["loss"] == net.blobs["loss"].shape == ()


def test_decoupled_loss_ignores_and_normalises(values):
    values["label"][3] = 255
    kept = {k: torch.cat([v[:3], v[4:]]) for k, v in values.items()}
    alone = float(loss_net(student=(7, 10))(kept))
    ignoring = "loss_param { ignore_label: 255 }"
    assert float(loss_net(extra=ignoring)(values)) == pytest.approx(alone)
    full = "loss_param { ignore_label: 255 normalization: FULL }"
    assert float(loss_net(extra=full)(values)) == pytest.approx(alone * 7 / 8)


def test_decoupled_loss_of_an_equal_student_is_zero(values):
    loss = loss_net()({**values, "t": values["s"].clone()})
    assert float(loss) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("axis", [1, -1])
def test_decoupled_loss_gradient(axis):
    net = loss_net(f"axis: {axis}", (2, 3, 3), label=(2, 3), extra="loss_param { ignore_label: 1 }")
    torch.manual_seed(0)
    student, teacher = (
        torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    labels = torch.tensor([[0.0, 1, 2], [2, 2, 1]])
    assert gradcheck(lambda s, t: layer_of(net)(s, t, labels), (student, teacher))


def test_decoupled_loss_gives_the_teacher_no_gradient_unless_asked(values):
    hold_teacher_gets_no_gradient(loss_net, values)


def test_decoupled_loss_of_one_record_or_constant_logits_is_finite():
    check_edge_cases(lambda n: loss_net(student=(n, 10)))


def test_decoupled_loss_is_absent_from_deployment():
    hold_deployment('type: "DecoupledDistillingLoss"', label=True)


def test_decoupled_loss_takes_logits_of_the_same_extents(values):
    net = loss_net(teacher=(8, 10, 1, 1))
    loss = net({**values, "t": values["t"].view(8, 10, 1, 1)})
    assert float(loss) == pytest.approx(67.167091, rel=REFERENCE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"teacher": (8, 7)}, "same number of classes.*put a ClassMap between"),
        ({"teacher": (4, 10)}, "logits of the same shape"),
        ({"student": (8, 1)}, "needs at least 2 classes"),
        ({"label": (9,)}, "Number of labels must match number of predictions"),
        ({"settings": "alpha: -1"}, "alpha must be at least 0"),
        ({"settings": "beta: nan"}, "beta must be at least 0"),
    ],
)
def test_decoupled_loss_that_cannot_be_is_refused(arguments, words):
    with pytest.raises(NetError, match=rf"layer 'L' \(DecoupledDistillingLoss\): .*{words}"):
        loss_net(**arguments)


def test_decoupled_loss_label_outside_the_classes_is_refused(values):
    values["label"] += 3
    with pytest.raises(NetError, match=r"a label is out of range.*label=10, classes=10"):
        loss_net()(values)
