import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from caffe_kd.losses.classification import (
    MAX_CROSS_ENTROPY,
    euclidean,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
)
from caffe_kd.losses.normalization import BATCH_SIZE, FULL, NONE, VALID

CLOSE = {"rtol": 1e-12, "atol": 1e-12}  # float64 against the same formula in numpy


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(3)


def by_hand(logits, labels, axis, ignore, normalization):
    """Softmax cross entropy, position by position."""
    scores = np.moveaxis(logits.numpy(), axis, -1).reshape(-1, logits.shape[axis])
    total, counted = 0.0, 0
    for row, label in zip(scores, labels.flatten().tolist(), strict=True):
        if label == ignore:
            continue
        p = np.exp(row - row.max())
        total -= math.log(max(p[int(label)] / p.sum(), np.finfo(np.float32).tiny))
        counted += 1
    outer = math.prod(logits.shape[:axis])
    return (
        total
        / {VALID: max(1, counted), FULL: len(scores), BATCH_SIZE: outer, NONE: 1}[normalization]
    )


@pytest.mark.parametrize("normalization", [VALID, FULL, BATCH_SIZE, NONE])
@pytest.mark.parametrize("ignore", [None, 1, 255, -1])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((6, 4), 1), ((2, 4, 3, 3), 1), ((2, 3, 4), 2), ((4, 5), 0), ((3, 2, 4, 2), 2)],
)
def test_softmax_cross_entropy_is_its_formula(shape, axis, ignore, normalization):
    logits = torch.randn(shape, dtype=torch.float64)
    positions = shape[:axis] + shape[axis + 1 :]
    labels = torch.randint(0, shape[axis], positions).float()
    if ignore is not None:
        labels.flatten()[::3] = ignore
    got = softmax_cross_entropy(
        logits, labels, axis=axis, ignore_label=ignore, normalization=normalization
    )
    want = by_hand(logits, labels, axis, ignore, normalization)
    np.testing.assert_allclose(float(got), want, **CLOSE)


def test_softmax_cross_entropy_matches_the_reference_value():
    torch.manual_seed(0)
    student = torch.randn(8, 10) * 3
    assert float(softmax_cross_entropy(student, torch.arange(8.0))) == pytest.approx(
        5.322546, abs=2e-6
    )


def test_softmax_cross_entropy_counts_negative_axes_from_the_back():
    logits, labels = torch.randn(4, 3), torch.tensor([0.0, 1, 2, 0])
    assert softmax_cross_entropy(logits, labels, axis=-1) == softmax_cross_entropy(logits, labels)


def test_softmax_cross_entropy_takes_channels_last_memory():
    logits = torch.randn(2, 4, 3, 3)
    labels = torch.randint(0, 4, (2, 1, 3, 3)).float()
    other = logits.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        softmax_cross_entropy(other, labels), softmax_cross_entropy(logits, labels)
    )


def test_softmax_cross_entropy_truncates_labels():
    logits = torch.randn(2, 3)
    cut = softmax_cross_entropy(logits, torch.tensor([1.9, 0.5]))
    assert cut == softmax_cross_entropy(logits, torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("worst", [-200.0, -math.inf])
def test_softmax_cross_entropy_is_capped_and_its_gradient_is_not(worst):
    logits = torch.tensor([[0.0, worst]], requires_grad=True)
    loss = softmax_cross_entropy(logits, torch.tensor([1.0]))
    assert loss.item() == pytest.approx(87.3365, abs=1e-4)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.tolist() == [[1.0, -1.0]]


def test_softmax_cross_entropy_caps_each_position_and_not_the_mean():
    logits = torch.tensor([[0.0, -200.0], [0.0, 0.0]])
    loss = softmax_cross_entropy(logits, torch.ones(2))
    assert float(loss) == pytest.approx((MAX_CROSS_ENTROPY + math.log(2)) / 2)


def test_softmax_cross_entropy_of_nan_is_nan():
    assert torch.isnan(softmax_cross_entropy(torch.full((1, 2), math.nan), torch.zeros(1)))


def test_softmax_cross_entropy_with_every_label_ignored_is_zero():
    logits = torch.randn(3, 4, requires_grad=True)
    loss = softmax_cross_entropy(logits, torch.full((3,), 255.0), ignore_label=255)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0
    assert not gradient.any()


@pytest.mark.parametrize("label", [4, -1, -100])  # -100 is what torch itself would ignore
def test_softmax_cross_entropy_refuses_labels_outside_the_classes(label):
    with pytest.raises(IndexError):
        softmax_cross_entropy(torch.randn(1, 4), torch.tensor([float(label)]))


@pytest.mark.parametrize("ignore", [None, 1])
def test_softmax_cross_entropy_gradient(ignore):
    logits = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 4, (2, 3))
    assert gradcheck(lambda z: softmax_cross_entropy(z, labels, ignore_label=ignore), logits)


@pytest.mark.parametrize(
    ("normalization", "divisor"), [(BATCH_SIZE, 4), (VALID, 12), (FULL, 20), (NONE, 1)]
)
def test_sigmoid_cross_entropy_is_its_formula(normalization, divisor):
    logits = torch.randn(4, 5, dtype=torch.float64)
    targets = torch.rand(4, 5, dtype=torch.float64)
    targets[:2, 1:] = 7  # 8 of 20 are ignored
    s = torch.sigmoid(logits)
    losses = -(targets * s.log() + (1 - targets) * (1 - s).log())
    got = sigmoid_cross_entropy(logits, targets, ignore_label=7, normalization=normalization)
    np.testing.assert_allclose(float(got), float(losses[targets < 2].sum() / divisor), **CLOSE)


def test_sigmoid_cross_entropy_divides_by_the_batch_unless_given():
    logits, targets = torch.zeros(4, 5), torch.ones(4, 5)
    assert float(sigmoid_cross_entropy(logits, targets)) == pytest.approx(5 * math.log(2))


def test_sigmoid_cross_entropy_ignores_truncated_targets():
    # 0.7 truncates to 0, as in Caffe.
    loss = sigmoid_cross_entropy(torch.zeros(1, 2), torch.tensor([[0.7, 1.0]]), ignore_label=0)
    assert float(loss) == pytest.approx(math.log(2))


def test_sigmoid_cross_entropy_stays_finite_far_out():
    logits = torch.tensor([[1000.0, -1000.0]], requires_grad=True)
    loss = sigmoid_cross_entropy(logits, torch.tensor([[0.0, 1.0]]))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 2000
    assert gradient.tolist() == [[1.0, -1.0]]


@pytest.mark.parametrize("ignore", [None, 1])
def test_sigmoid_cross_entropy_gradient(ignore):
    logits = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 2, (3, 4)).double()
    assert gradcheck(lambda x: sigmoid_cross_entropy(x, targets, ignore_label=ignore), logits)


def test_euclidean_is_half_the_squared_distance_per_sample():
    loss = euclidean(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(2, 2, 1))
    assert float(loss) == 30 / 4


def test_euclidean_gradient_of_both():
    a, b = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert gradcheck(euclidean, (a, b))


@pytest.mark.parametrize("ignore", [None, 1])
@pytest.mark.parametrize("smoothing", [0.1, 0.5, 1.0])
def test_softmax_cross_entropy_smoothed_is_that_of_its_soft_targets(smoothing, ignore):
    logits = torch.randn(2, 4, 3, dtype=torch.float64)
    labels = torch.tensor([[0, 1, 3], [1, 2, 2]])
    total, counted = 0.0, 0
    for n in range(2):
        for i in range(3):
            label = int(labels[n, i])
            if label == ignore:
                continue
            targets = [smoothing / 4 + (1 - smoothing) * (c == label) for c in range(4)]
            p = torch.softmax(logits[n, :, i], 0).tolist()
            total -= sum(t * math.log(q) for t, q in zip(targets, p, strict=True))
            counted += 1
    got = softmax_cross_entropy(logits, labels, ignore_label=ignore, label_smoothing=smoothing)
    assert float(got) == pytest.approx(total / counted, rel=1e-12)


def test_softmax_cross_entropy_smoothed_gradient_is_the_distance_to_its_soft_targets():
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 3, 1])
    loss = softmax_cross_entropy(logits, labels, label_smoothing=0.2)
    targets = 0.8 * torch.nn.functional.one_hot(labels, 4) + 0.05
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, (torch.softmax(logits.detach(), 1) - targets) / 3)


def test_softmax_cross_entropy_smoothed_of_a_very_sure_net_is_finite():
    logits = torch.tensor([[3000.0, 0.0]], requires_grad=True)
    loss = softmax_cross_entropy(logits, torch.tensor([1]), label_smoothing=0.1)
    assert loss.item() == pytest.approx(MAX_CROSS_ENTROPY)
    assert torch.isfinite(torch.autograd.grad(loss, logits)[0]).all()
