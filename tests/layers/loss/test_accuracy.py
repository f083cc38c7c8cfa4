import math

import pytest
import torch

from caffe_kd.core.errors import NetError
from tests.helpers import golden_case
from tests.layers.loss_nets import input_net, layer_of


def accuracy_net(settings="", scores=(4, 3), label=(4,), tops=("y",)):
    top = " ".join(f'top: "{t}"' for t in tops)
    return input_net(
        {"x": scores, "label": label},
        f'layer {{ name: "L" type: "Accuracy" bottom: "x" bottom: "label" {top} '
        f"accuracy_param {{ {settings} }} }}",
    )


def by_hand(scores, labels, axis, top_k, ignore):
    """Caffe's count, position by position."""
    rows = scores.movedim(axis, -1).reshape(-1, scores.shape[axis]).tolist()
    right, present = [0] * scores.shape[axis], [0] * scores.shape[axis]
    for row, label in zip(rows, labels.flatten().int().tolist(), strict=True):
        if label != ignore:
            present[label] += 1
            right[label] += sum(other >= row[label] for other in row) - 1 < top_k
    each = [r / p if p else 0 for r, p in zip(right, present, strict=True)]
    return sum(right) / max(1, sum(present)), each


@pytest.mark.parametrize("case", ["accuracy", "accuracy_per_class", "accuracy_top3"])
def test_accuracy_matches_caffe(case):
    golden_case(case)


@pytest.mark.parametrize("ignore", [None, 0, 255])
@pytest.mark.parametrize("top_k", [1, 2, 5])
@pytest.mark.parametrize(("shape", "axis"), [((30, 5), 1), ((3, 5, 4, 2), 1), ((3, 4, 5), -1)])
def test_accuracy_is_its_count(shape, axis, top_k, ignore):
    torch.manual_seed(0)
    scores = torch.randint(0, 4, shape).float()  # few values: many ties
    positions = [s for i, s in enumerate(shape) if i != axis % len(shape)]
    labels = torch.randint(0, 5, positions).float()
    settings = f"top_k: {top_k} axis: {axis}"
    if ignore is not None:
        settings += f" ignore_label: {ignore}"
        labels.view(-1)[::3] = ignore
    net = accuracy_net(settings, shape, positions, ("y", "each"))
    net({"x": scores, "label": labels})
    total, each = by_hand(scores, labels, axis, top_k, ignore)
    assert float(net.blobs["y"]) == pytest.approx(total)
    assert net.blobs["each"].tolist() == pytest.approx(each)
    assert net.shapes["y"] == net.blobs["y"].shape == ()
    assert net.shapes["each"] == net.blobs["each"].shape == (5,)


def test_accuracy_counts_ties_against():
    net = accuracy_net()
    net({"x": torch.zeros(4, 3), "label": torch.zeros(4)})
    assert float(net.blobs["y"]) == 0


@pytest.mark.parametrize("tops", [("y",), ("y", "each")])
def test_accuracy_with_every_label_ignored_is_zero(tops):
    net = accuracy_net("ignore_label: 1", tops=tops)
    net({"x": torch.randn(4, 3), "label": torch.ones(4)})
    assert not any(net.blobs[t].any() for t in tops)


def test_accuracy_is_no_objective_and_has_no_gradient():
    net = accuracy_net(tops=("y", "each"))
    assert net({"x": torch.randn(4, 3, requires_grad=True)}) is None
    assert not net.blobs["y"].requires_grad
    assert not net.blobs["each"].requires_grad


def test_accuracy_of_float64_scores_is_float64():
    layer = layer_of(accuracy_net(tops=("y", "each")))
    tops = layer(torch.eye(3, dtype=torch.float64), torch.arange(3.0))
    assert [t.dtype for t in tops] == [torch.float64] * 2
    assert float(tops[0]) == 1


def test_accuracy_top_k_above_the_classes_fails():
    with pytest.raises(NetError, match=r"top_k must be less than or equal .*top_k=4, classes=3"):
        accuracy_net("top_k: 4")


def test_accuracy_label_count_differs_fails():
    with pytest.raises(NetError, match="Number of labels must match number of predictions"):
        accuracy_net(label=(5,))


@pytest.mark.parametrize("label", [3, -1, math.nan])
def test_accuracy_label_outside_the_classes_fails(label):
    net = accuracy_net()
    with pytest.raises(NetError, match=r"'L' \(Accuracy\): a label is out of range.*classes=3"):
        net({"label": torch.tensor([0.0, 1, label, 2])})
