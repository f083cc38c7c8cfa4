import math

import pytest
import torch
from torch.autograd import gradcheck

from caffe_kd.losses.decoupled import decoupled_kd
from caffe_kd.losses.soft_targets import soft_target_loss
from tests.losses.reference_values import REFERENCE


@pytest.fixture
def logits():
    """The reference logits: student and teacher, 8 samples of 10 classes."""
    torch.manual_seed(0)
    return torch.randn(8, 10) * 3, torch.randn(8, 10) * 3


LABELS = torch.arange(8)


def softened(row, temperature):
    powers = [math.exp(z / temperature) for z in row]
    return [p / sum(powers) for p in powers]


def kl(teacher, student):
    return sum(t * math.log(t / s) for t, s in zip(teacher, student, strict=True))


def by_hand(student, teacher, labels, temperature):
    """Both parts of each sample, from the formula."""
    target, others = [], []
    for zs, zt, y in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        s, t = softened(zs, temperature), softened(zt, temperature)
        target.append(temperature**2 * kl([t[y], 1 - t[y]], [s[y], 1 - s[y]]))
        rest = [[p / (1 - q[y]) for c, p in enumerate(q) if c != y] for q in (t, s)]
        others.append(temperature**2 * kl(*rest))
    return torch.tensor([target, others], dtype=torch.float64)


def test_decoupled_kd_matches_the_reference_values(logits):
    target, others = decoupled_kd(*logits, LABELS)
    assert float(target) == pytest.approx(0.206221, rel=REFERENCE)
    assert float(others) == pytest.approx(8.370108, rel=REFERENCE)
    assert float(target + 8 * others) == pytest.approx(67.167091, rel=REFERENCE)


@pytest.mark.parametrize("temperature", [1.0, 2.5, 4.0])
def test_decoupled_kd_is_its_formula(logits, temperature):
    student, teacher = (z.double() for z in logits)
    got = torch.stack(decoupled_kd(student, teacher, LABELS, temperature=temperature))
    wanted = by_hand(student, teacher, LABELS, temperature).mean(1)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)


def test_decoupled_kd_adds_up_to_plain_kd_with_the_teachers_doubt_as_weight(logits):
    student, teacher = (z.double()[:1] for z in logits)
    target, others = decoupled_kd(student, teacher, LABELS[:1])
    doubt = 1 - torch.softmax(teacher / 4, 1)[0, 0]
    torch.testing.assert_close(target + doubt * others, soft_target_loss(student, teacher))


def test_decoupled_kd_ignores_positions_and_normalises(logits):
    student, teacher = (z.double() for z in logits)
    labels = LABELS.clone()
    labels[[2, 5]] = 255
    got = torch.stack(decoupled_kd(student, teacher, labels, ignore_label=255))
    kept = labels != 255
    wanted = by_hand(student[kept], teacher[kept], labels[kept], 4.0).mean(1)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)


def test_decoupled_kd_takes_the_classes_along_any_axis(logits):
    want = decoupled_kd(*logits, LABELS)
    maps = (z.view(2, 2, 2, 10).movedim(3, 1) for z in logits)
    torch.testing.assert_close(decoupled_kd(*maps, LABELS.view(2, 1, 2, 2)), want)
    last = (z.view(2, 4, 10) for z in logits)
    torch.testing.assert_close(decoupled_kd(*last, LABELS.view(2, 4), axis=-1), want)


def test_decoupled_kd_of_an_equal_student_is_zero(logits):
    student = logits[0].requires_grad_()
    target, others = decoupled_kd(student, logits[0].detach(), LABELS)
    assert target.item() == pytest.approx(0, abs=1e-5)
    assert others.item() == pytest.approx(0, abs=1e-5)
    (gradient,) = torch.autograd.grad(target + others, student)
    assert gradient.abs().max() < 1e-5  # differences of probabilities in float32


def test_decoupled_kd_gradient_of_student_and_teacher():
    torch.manual_seed(1)
    student, teacher = (
        torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    labels = torch.tensor([[0, 3], [9, 1], [2, 2]])

    def loss(s, t):
        return decoupled_kd(s, t, labels, temperature=2.5, ignore_label=9)

    assert gradcheck(loss, (student, teacher))


@pytest.mark.parametrize("scale", [0.0, 1.0, 1000.0])
def test_decoupled_kd_of_alike_or_very_sure_networks_is_finite(scale):
    student = (torch.tensor([[0.0, -1.0, 1.0]]) * scale).requires_grad_()
    parts = decoupled_kd(student, -student.detach(), torch.tensor([2]), temperature=1)
    (gradient,) = torch.autograd.grad(sum(parts), student)
    assert all(math.isfinite(part.item()) for part in parts)
    assert torch.isfinite(gradient).all()
