import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from caffe_kd.losses.correlation import dist, pearson
from tests.losses.reference_values import REFERENCE


@pytest.fixture
def logits():
    """The reference logits: student and teacher, 8 samples of 10 classes."""
    torch.manual_seed(0)
    return torch.randn(8, 10) * 3, torch.randn(8, 10) * 3


def test_dist_matches_the_reference_values(logits):
    over_classes, over_records = dist(*logits)
    assert float(over_classes) == pytest.approx(0.927766, rel=REFERENCE)
    assert float(over_records) == pytest.approx(0.761817, rel=REFERENCE)
    assert float(over_classes + over_records) == pytest.approx(1.689583, rel=REFERENCE)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dist_is_numpys_correlation(logits, temperature):
    powers = [np.exp(z.double().numpy() / temperature) for z in logits]
    s, t = (p / p.sum(1, keepdims=True) for p in powers)
    rows = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(s, t, strict=True)])
    columns = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(s.T, t.T, strict=True)])
    got = dist(*(z.double() for z in logits), temperature=temperature)
    # The denominator's 1e-8 beside products of deviations of about 0.01.
    assert [float(x) / temperature**2 for x in got] == pytest.approx([rows, columns], rel=1e-5)


def test_pearson_of_a_linear_relation_is_one():
    a = torch.tensor([[1.0, 2.0, 4.0]])
    torch.testing.assert_close(pearson(a, 3 * a - 5, 1), torch.ones(1))
    torch.testing.assert_close(pearson(a, 1 - 2 * a, 1), -torch.ones(1))
    assert pearson(a, torch.full((1, 3), 7.0), 1).tolist() == [0]


def test_dist_of_an_equal_student_is_zero(logits):
    got = dist(logits[0], logits[0].clone())
    assert [float(x) for x in got] == pytest.approx([0, 0], abs=1e-5)  # 1e-8 in a denominator


def test_dist_takes_positions_as_samples(logits):
    want = dist(*logits)
    torch.testing.assert_close(dist(*(z.view(2, 4, 10).transpose(1, 2) for z in logits)), want)
    torch.testing.assert_close(dist(*(z.view(2, 4, 10) for z in logits), axis=-1), want)


def test_dist_gradient_of_student_and_teacher():
    torch.manual_seed(1)
    student, teacher = (
        torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    assert gradcheck(lambda s, t: dist(s, t, temperature=2), (student, teacher))


@pytest.mark.parametrize("shape", [(1, 5), (4, 5)])
def test_dist_of_constant_answers_is_finite(shape):
    student = torch.zeros(shape, requires_grad=True)
    parts = dist(student, torch.zeros(shape))
    (gradient,) = torch.autograd.grad(sum(parts), student)
    assert [p.item() for p in parts] == [1, 1]
    assert torch.isfinite(gradient).all()


def test_dist_of_one_sample_says_nothing_over_samples():
    student = torch.randn(1, 5, requires_grad=True)
    over_classes, over_records = dist(student, torch.randn(1, 5), temperature=2)
    assert over_records.item() == 4
    assert torch.autograd.grad(over_classes, student, retain_graph=True)[0].any()
    assert not torch.autograd.grad(over_records, student)[0].any()
