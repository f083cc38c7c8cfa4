import math
import statistics

import pytest
import torch
from torch.autograd import gradcheck

from caffe_kd.losses.normalization import BATCH_SIZE, FULL, NONE, VALID
from caffe_kd.losses.soft_targets import (
    DIVERGENCES,
    focal_weights,
    soft_label_weights,
    soft_target_loss,
    softmax_with_temperature,
    standardized,
)

REFERENCE = 2e-6  # relative: the reference values were computed in float32


@pytest.fixture
def logits():
    """The reference logits: student and teacher, 8 samples of 10 classes."""
    torch.manual_seed(0)
    return torch.randn(8, 10) * 3, torch.randn(8, 10) * 3


def by_hand(student, teacher, temperature, divergence):
    """The loss of each position along axis 1, without T^2."""
    if divergence == "MSE":
        return ((student - teacher) ** 2).mean(1)
    if divergence == "PSEUDO_LABEL":
        best = teacher.argmax(1, keepdim=True)
        return -torch.log_softmax(student, 1).gather(1, best).squeeze(1)
    p_s, p_t = (torch.exp(z / temperature) for z in (student, teacher))
    p_s, p_t = p_s / p_s.sum(1, keepdim=True), p_t / p_t.sum(1, keepdim=True)
    if divergence == "CROSS_ENTROPY":
        return -(p_t * p_s.log()).sum(1)
    return (p_t * (p_t / p_s).log()).sum(1)


@pytest.mark.parametrize(
    ("temperature", "expected"), [(1, 4.725994), (4, 8.001925), (20, 8.114460)]
)
def test_soft_target_loss_matches_the_reference_values(logits, temperature, expected):
    loss = soft_target_loss(*logits, temperature=temperature)
    assert float(loss) == pytest.approx(expected, rel=REFERENCE)
    exact = soft_target_loss(*(z.double() for z in logits), temperature=temperature)
    assert float(exact) == pytest.approx(expected, rel=REFERENCE)


def test_soft_target_loss_mse_matches_the_reference_value(logits):
    for temperature in (1.0, 4.0):
        loss = soft_target_loss(*logits, divergence="MSE", temperature=temperature)
        assert float(loss) == pytest.approx(18.295033, rel=REFERENCE)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize(
    ("normalization", "divisor"), [(VALID, 13), (FULL, 18), (BATCH_SIZE, 2), (NONE, 1)]
)
def test_soft_target_loss_with_ignored_positions_is_its_formula(divergence, normalization, divisor):
    torch.manual_seed(1)
    student, teacher = (torch.randn(2, 4, 3, 3, dtype=torch.float64) for _ in range(2))
    valid = torch.ones(2, 1, 3, 3, dtype=torch.bool)
    valid.flatten()[[0, 5, 7, 11, 17]] = False
    got = soft_target_loss(
        student,
        teacher,
        temperature=3,
        divergence=divergence,
        valid=valid,
        normalization=normalization,
    )
    losses = by_hand(student, teacher, 3, divergence)
    factor = 1 if divergence in ("MSE", "PSEUDO_LABEL") else 9
    want = factor * (losses * valid[:, 0]).sum() / divisor
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_soft_target_loss_takes_the_classes_along_any_axis(logits, divergence):
    student, teacher = logits
    want = soft_target_loss(student, teacher, divergence=divergence)
    last = soft_target_loss(
        student.view(2, 4, 10), teacher.view(2, 4, 10), divergence=divergence, axis=-1
    )
    torch.testing.assert_close(last, want)
    valid = torch.ones(8, dtype=torch.bool)
    masked = soft_target_loss(student.t(), teacher.t(), divergence=divergence, axis=0, valid=valid)
    torch.testing.assert_close(masked, want)


@pytest.mark.parametrize("divergence", ["KL", "MSE"])
def test_soft_target_loss_of_an_equal_student_is_zero(logits, divergence):
    student = logits[0].requires_grad_()
    loss = soft_target_loss(student, logits[0].detach(), divergence=divergence)
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.abs().max() < 1e-6  # p_s - p_t in float32


def test_soft_target_loss_cross_entropy_of_an_equal_student_is_the_entropy(logits):
    loss = soft_target_loss(logits[0], logits[0], divergence="CROSS_ENTROPY", temperature=4)
    p = torch.softmax(logits[0] / 4, 1)
    entropy = -(p * p.log()).sum() / 8
    torch.testing.assert_close(loss, 16 * entropy)


def test_soft_target_loss_kl_and_cross_entropy_have_the_same_gradient(logits):
    student = logits[0].requires_grad_()
    kl, ce = (
        torch.autograd.grad(soft_target_loss(student, logits[1], divergence=d), student)[0]
        for d in ("KL", "CROSS_ENTROPY")
    )
    torch.testing.assert_close(kl, ce)
    p_s, p_t = (softmax_with_temperature(z.detach(), 4) for z in logits)
    torch.testing.assert_close(kl, 4 * (p_s - p_t) / 8)


def gradient_size(logits, temperature, scale):
    student = logits[0].double().requires_grad_()
    loss = soft_target_loss(
        student, logits[1].double(), temperature=temperature, scale_by_temperature=scale
    )
    return float(torch.autograd.grad(loss, student)[0].norm())


def test_soft_target_loss_gradient_keeps_its_size_as_the_temperature_rises(logits):
    sizes = [gradient_size(logits, t, True) for t in (20, 100, 1000)]
    assert max(sizes) / min(sizes) < 1.1
    # Its limit: the gradient of the squared difference of zero-mean logits, over 2 C.
    student, teacher = (z.double() - z.double().mean(1, keepdim=True) for z in logits)
    assert sizes[-1] == pytest.approx(float((student - teacher).norm()) / 80, rel=1e-2)


@pytest.mark.parametrize("temperature", [2, 4, 20])
def test_soft_target_loss_unscaled_is_smaller_by_the_square(logits, temperature):
    scaled, plain = (
        soft_target_loss(*logits, temperature=temperature, scale_by_temperature=s)
        for s in (True, False)
    )
    torch.testing.assert_close(scaled, plain * temperature**2)
    ratio = gradient_size(logits, temperature, True) / gradient_size(logits, temperature, False)
    assert ratio == pytest.approx(temperature**2)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_soft_target_loss_gradient_of_student_and_teacher(divergence, masked):
    torch.manual_seed(2)
    student, teacher = (
        torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    valid = torch.tensor([1, 0, 1, 1, 0, 1]).bool() if masked else None

    def loss(s, t):
        return soft_target_loss(s, t, temperature=2.5, divergence=divergence, valid=valid)

    assert gradcheck(loss, (student, teacher))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_soft_target_loss_of_very_sure_networks_is_finite(divergence):
    student = torch.tensor([[500.0, -500.0]], requires_grad=True)
    loss = soft_target_loss(
        student, torch.tensor([[-500.0, 500.0]]), temperature=1, divergence=divergence
    )
    (gradient,) = torch.autograd.grad(loss, student)
    assert math.isfinite(loss.item())
    assert torch.isfinite(gradient).all()


def test_soft_target_loss_refuses_an_unknown_divergence():
    with pytest.raises(ValueError, match="KL"):
        soft_target_loss(torch.zeros(1, 2), torch.zeros(1, 2), divergence="JS")


def test_softmax_with_temperature_softens(logits):
    sharp, plain, soft = (softmax_with_temperature(logits[0], t) for t in (0.1, 1, 20))
    torch.testing.assert_close(plain, torch.softmax(logits[0], 1))
    assert (sharp.amax(1) > plain.amax(1)).all()
    assert (soft.amax(1) < plain.amax(1)).all()
    torch.testing.assert_close(soft.sum(1), torch.ones(8))


def test_softmax_with_temperature_gradient_has_one_over_t():
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda z: softmax_with_temperature(z, 5, 0), x)


def test_standardized_matches_the_reference_value(logits):
    loss = soft_target_loss(*(standardized(z) for z in logits))
    assert float(loss) == pytest.approx(0.863148, rel=REFERENCE)


def test_standardized_is_the_z_score_of_each_position():
    torch.manual_seed(1)
    z = torch.randn(2, 5, 3, dtype=torch.float64) * 4 + 7
    got = standardized(z)
    for n in range(2):
        for position in range(3):
            row = z[n, :, position].tolist()
            mean, deviation = statistics.mean(row), statistics.stdev(row)
            wanted = [(x - mean) / (deviation + 1e-7) for x in row]
            assert got[n, :, position].tolist() == pytest.approx(wanted)
    torch.testing.assert_close(standardized(z.transpose(1, 2), -1).transpose(1, 2), got)


def test_standardized_takes_away_scale_and_shift(logits):
    loss = soft_target_loss(standardized(3 * logits[0] + 5), standardized(logits[0]))
    assert float(loss) == pytest.approx(0, abs=1e-6)


def test_standardized_of_logits_all_alike_is_zero_and_has_a_finite_gradient():
    z = torch.full((1, 4), 3.0, requires_grad=True)
    got = standardized(z)
    assert not got.any()
    loss = soft_target_loss(got, torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    assert torch.isfinite(torch.autograd.grad(loss, z)[0]).all()


def test_standardized_gradient():
    torch.manual_seed(1)
    assert gradcheck(standardized, torch.randn(2, 4, 2, dtype=torch.float64, requires_grad=True))


def test_soft_target_loss_pseudo_label_is_the_cross_entropy_of_the_teachers_best(logits):
    student, teacher = logits
    for temperature in (1.0, 4.0):
        got = soft_target_loss(student, teacher, divergence="PSEUDO_LABEL", temperature=temperature)
        best = [row.index(max(row)) for row in teacher.tolist()]
        p = torch.softmax(student, 1)
        wanted = -sum(p[n, y].log() for n, y in enumerate(best)) / 8
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_soft_target_loss_weights_multiply_each_position(divergence):
    torch.manual_seed(3)
    student, teacher = (torch.randn(2, 4, 3, dtype=torch.float64) for _ in range(2))
    weights = torch.rand(2, 3, dtype=torch.float64)
    valid = torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    got = soft_target_loss(student, teacher, divergence=divergence, weights=weights, valid=valid)
    total = 0.0
    for n in range(2):
        for i in range(3):
            one = [z[n : n + 1, :, i] for z in (student, teacher)]
            total += weights[n, i] * valid[n, i] * soft_target_loss(*one, divergence=divergence)
    torch.testing.assert_close(got, total / 5)


def test_focal_weights_are_the_students_error_to_a_power(logits):
    p = torch.softmax(logits[0], 1)
    for gamma in (0.0, 0.5, 2.0):
        got = focal_weights(logits[0], torch.arange(8), gamma)
        wanted = torch.tensor([[(1 - float(p[n, n])) ** gamma] for n in range(8)])
        torch.testing.assert_close(got, wanted)


def test_focal_weights_of_a_sure_student_are_zero_and_of_a_wrong_one_are_one():
    student = torch.tensor([[200.0, 0.0], [200.0, 0.0]], requires_grad=True)
    got = focal_weights(student, torch.tensor([0, 1]))
    assert got.tolist() == [[0], [1]]
    assert not got.requires_grad


def test_soft_label_weights_compare_the_students_error_with_the_teachers(logits):
    losses = [-torch.log_softmax(z, 1).diagonal() for z in logits]
    got = soft_label_weights(*logits, torch.arange(8))
    wanted = [1 - math.exp(-float(s) / float(t)) for s, t in zip(*losses, strict=True)]
    assert got.flatten().tolist() == pytest.approx(wanted, rel=1e-4)


def test_soft_label_weights_where_both_are_sure_are_finite():
    sure = torch.tensor([[500.0, 0.0]])
    assert soft_label_weights(sure, sure, torch.tensor([0])).tolist() == [[0]]
    assert soft_label_weights(-sure, sure, torch.tensor([0])).tolist() == [[1]]
