from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from caffe_kd.core.errors import CaffeKDError, NetError
from caffe_kd.proto.binary import write_blob
from tests.helpers import golden_case
from tests.layers.loss_nets import input_net, layer_of

H = np.random.default_rng(0).random((4, 4))


def net_of(settings="", scores=(5, 4), label=(5,), matrix=(4, 4), tops=("loss",)):
    shapes = {"x": scores, "label": label} | ({"H": matrix} if matrix else {})
    names = "".join(f' bottom: "{name}"' for name in shapes)
    names += "".join(f' top: "{name}"' for name in tops)
    return input_net(shapes, f'layer {{ name: "L" type: "InfogainLoss" {names} {settings} }}')


def by_hand(x, labels, axis, ignored=None):
    """Return the sum of the losses, position by position, and how many count."""
    rows = np.moveaxis(x.detach().numpy(), axis, -1).reshape(-1, 4)
    total, counted = 0.0, 0
    for row, label in zip(rows, labels.flatten().tolist(), strict=True):
        if label == ignored:
            continue
        p = np.exp(row - row.max())
        total -= (H[int(label)] * np.log(np.maximum(p / p.sum(), 1e-20))).sum()
        counted += 1
    return total, counted


def test_infogain_loss_matches_caffe():
    golden_case("infogain_bottom")


@pytest.mark.parametrize(
    ("shape", "label", "axis"),
    [((5, 4), (5,), 1), ((2, 4, 3, 2), (2, 1, 3, 2), 1), ((2, 3, 4), (2, 3), -1)],
)
def test_infogain_loss_is_its_formula(shape, label, axis):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 4, label).double()
    matrix = torch.from_numpy(H)
    layer = layer_of(net_of(f"infogain_loss_param {{ axis: {axis} }}", shape, label, (1, 1, 4, 4)))
    total, count = by_hand(x, labels, axis)
    assert layer(x, labels, matrix).item() == pytest.approx(total / count)
    assert gradcheck(lambda v: layer(v, labels, matrix), x)


def test_identity_makes_it_softmax_with_loss():
    net = input_net(
        {"x": (5, 4), "label": (5,), "H": (4, 4)},
        """
        layer { name: "a" type: "InfogainLoss" bottom: "x" bottom: "label" bottom: "H" top: "a" }
        layer { name: "b" type: "SoftmaxWithLoss" bottom: "x" bottom: "label" top: "b" }
        """,
    )
    x = torch.randn(5, 4)
    net({"x": x, "label": torch.tensor([0.0, 1, 2, 3, 1]), "H": torch.eye(4)})
    torch.testing.assert_close(net.blobs["a"], net.blobs["b"])


@pytest.mark.parametrize(
    ("settings", "divisor"),
    [
        ("ignore_label: 3", None),
        ("ignore_label: 3 normalization: FULL", 12),
        ("ignore_label: 3 normalization: BATCH_SIZE", 2),
        ("ignore_label: 3 normalization: NONE", 1),
    ],
)
def test_infogain_loss_ignores_and_normalises(settings, divisor):
    x = torch.randn(2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    labels = torch.arange(12).view(2, 3, 2) % 4
    layer = layer_of(net_of(f"loss_param {{ {settings} }}", (2, 4, 3, 2), (2, 3, 2)))
    total, counted = by_hand(x, labels, 1, ignored=3)
    assert counted == 9
    loss = layer(x, labels, torch.from_numpy(H))
    assert loss.item() == pytest.approx(total / (divisor or counted))
    (gradient,) = torch.autograd.grad(loss, x)
    assert torch.equal(gradient.any(1), labels != 3)


def test_hopeless_probability_is_cut_off_in_the_value_alone():
    x = torch.tensor([[0.0, -300.0]], requires_grad=True)
    layer = layer_of(net_of(scores=(1, 2), label=(1,), matrix=(2, 2)))
    loss = layer(x, torch.ones(1), torch.eye(2))
    assert loss.item() == pytest.approx(20 * math.log(10))
    assert torch.autograd.grad(loss, x)[0].tolist() == [[1, -1]]


def test_second_top_is_the_probabilities_without_gradient():
    net = net_of("loss_weight: 1 loss_weight: 0", tops=("loss", "prob"))
    x = torch.randn(5, 4, requires_grad=True)
    net({"x": x})
    assert net.shapes["prob"] == (5, 4)
    torch.testing.assert_close(net.blobs["prob"], torch.softmax(x.detach(), 1))
    assert not net.blobs["prob"].requires_grad


def test_matrix_gets_no_gradient():
    net = net_of()
    x, matrix = torch.randn(5, 4, requires_grad=True), torch.ones(4, 4, requires_grad=True)
    objective = net({"x": x, "H": matrix})
    assert torch.autograd.grad(objective, matrix, allow_unused=True) == (None,)


def test_matrix_comes_from_a_file(tmp_path):
    path = tmp_path / "H.binaryproto"
    write_blob(path, H.astype(np.float32).reshape(1, 1, 4, 4))
    net = net_of(f'infogain_loss_param {{ source: "{path}" }}', matrix=None)
    given = net_of()
    values = {"x": torch.randn(5, 4), "label": torch.tensor([0.0, 1, 2, 3, 1])}
    want = given(values | {"H": torch.from_numpy(H).float()})
    torch.testing.assert_close(net(values), want)
    assert net.weights() == {}  # H is no parameter
    assert net.double()({k: v.double() for k, v in values.items()}).dtype == torch.float64


def test_matrix_as_a_bottom_goes_before_the_file():
    net = net_of('infogain_loss_param { source: "absent.binaryproto" }')
    assert math.isfinite(net({"x": torch.randn(5, 4), "H": torch.eye(4)}))


@pytest.mark.parametrize(
    ("settings", "shapes", "words"),
    [
        ("", {"matrix": None}, "Infogain matrix source must be specified"),
        ("", {"matrix": (4, 3)}, "H must be 4x4. Received: shape=\\(4, 3\\)"),
        ("loss_param { normalize: true }", {}, 'normalize is deprecated. use "normalization"'),
        ("", {"label": (5, 2)}, "Number of labels must match number of predictions"),
        ("infogain_loss_param { axis: 2 }", {}, "axis is out of range"),
    ],
)
def test_mistake_is_reported(settings, shapes, words):
    with pytest.raises(NetError, match=words):
        net_of(settings, **shapes)


def test_file_that_is_missing_or_of_another_size_is_reported(tmp_path):
    path = tmp_path / "H.binaryproto"
    settings = f'infogain_loss_param {{ source: "{path}" }}'
    with pytest.raises(CaffeKDError, match=r"H\.binaryproto"):
        net_of(settings, matrix=None)
    write_blob(path, np.eye(3, dtype=np.float32))
    with pytest.raises(NetError, match="H must be 4x4"):
        net_of(settings, matrix=None)


def test_label_that_is_no_class_is_reported():
    with pytest.raises(NetError, match=r"a label is out of range.*label=4, classes=4"):
        layer_of(net_of())(torch.zeros(5, 4), torch.full((5,), 4.0), torch.eye(4))
