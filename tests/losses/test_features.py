"""The losses on features: reference values, plain re-implementations, and what they are at ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from caffe_kd.losses import features
from tests.losses.reference_values import REFERENCE, reference_tensors

# float64 sums of the same terms in another order.
EXACT = 1e-10


@pytest.fixture
def values():
    return reference_tensors()


def random_maps(*shapes):
    torch.manual_seed(1)
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


def test_hint_has_the_reference_value(values):
    assert float(features.hint(values.es, values.et)) == pytest.approx(2.148990, rel=REFERENCE)


def test_attention_transfer_has_the_reference_value(values):
    loss = features.attention_transfer(values.fs, values.ft)
    assert float(loss) == pytest.approx(0.0205001, rel=REFERENCE)


def test_fsp_has_the_reference_value(values):
    student, teacher = (values.fs, 2 * values.fs), (values.ft[:, :4], values.ft[:, :4])
    assert float(features.fsp(student, teacher)) == pytest.approx(0.206289, rel=REFERENCE)


def test_neuron_selectivity_has_the_reference_value(values):
    loss = features.neuron_selectivity(values.fs, values.ft)
    assert float(loss) == pytest.approx(0.349254, rel=REFERENCE)


def test_variational_information_has_the_reference_value(values):
    scale = torch.full((16,), math.log(math.exp(5 - features.VARIANCE_FLOOR) - 1))
    loss = features.variational_information(values.es, values.et, scale)
    assert float(loss) == pytest.approx(1.019618, rel=REFERENCE)


def test_factor_transfer_has_the_reference_value(values):
    loss = features.factor_transfer(values.fs, values.ft, 2, 1)
    assert float(loss) == pytest.approx(0.1005125, rel=REFERENCE)


def test_activation_boundary_times_its_weight_has_the_reference_value(values):
    loss = features.activation_boundary(values.fs, values.ft[:, :4])
    assert float(loss) * 3 / 1000 == pytest.approx(0.902061, rel=REFERENCE)


# ---- the formulas once more, in loops


def places(maps):
    """The positions of a map (C, H, W), as vectors of C values."""
    return [maps[:, y, x] for y in range(maps.shape[1]) for x in range(maps.shape[2])]


def pool(maps, rows, columns):
    """Averages over windows of equal size."""
    n, c, h, w = maps.shape
    return maps.reshape(n, c, rows, h // rows, columns, w // columns).mean((3, 5))


def length_one(vector):
    size = math.sqrt(sum(v * v for v in vector))
    return [v / size for v in vector]


def test_hint_is_its_formula():
    s, t = random_maps((3, 4, 2, 2), (3, 4, 2, 2))
    want = sum((a - b) ** 2 for a, b in zip(s.flatten(), t.flatten(), strict=True)) / s.numel()
    assert float(features.hint(s, t)) == pytest.approx(float(want), rel=EXACT)


@pytest.mark.parametrize("larger", ["student", "teacher", "neither"])
def test_attention_transfer_is_its_formula(larger):
    s, t = random_maps((3, 4, 4, 6), (3, 5, 4, 6))
    if larger == "student":
        t = t[:, :, :2, :3]
    if larger == "teacher":
        s = s[:, :, :2, :3]
    got = float(features.attention_transfer(s, t))
    s, t = (pool(x, min(s.shape[2], t.shape[2]), min(s.shape[3], t.shape[3])) for x in (s, t))
    terms = []
    for a, b in zip(s.numpy(), t.numpy(), strict=True):
        looks = [length_one([(place**2).mean() for place in places(x)]) for x in (a, b)]
        terms += [(p - q) ** 2 for p, q in zip(*looks, strict=True)]
    assert got == pytest.approx(np.mean(terms), rel=EXACT)


def test_maps_of_which_one_is_higher_and_the_other_wider_meet_at_the_smaller_of_both():
    a, b = random_maps((2, 3, 8, 2), (2, 3, 4, 4))
    x, y = features.at_same_size(a, b)
    torch.testing.assert_close(x, pool(a, 4, 2))
    torch.testing.assert_close(y, pool(b, 4, 2))


def test_fsp_is_its_formula_with_the_larger_map_pooled():
    s1, s2, t1, t2 = random_maps((2, 3, 4, 4), (2, 2, 2, 2), (2, 3, 6, 6), (2, 2, 6, 6))
    terms = []
    for n in range(2):
        for i in range(3):
            for j in range(2):
                of_student = (pool(s1, 2, 2)[n, i] * s2[n, j]).mean()
                of_teacher = (t1[n, i] * t2[n, j]).mean()
                terms.append(float((of_student - of_teacher) ** 2))
    assert float(features.fsp((s1, s2), (t1, t2))) == pytest.approx(np.mean(terms), rel=EXACT)


def test_neuron_selectivity_is_its_formula():
    s, t = random_maps((2, 3, 2, 3), (2, 4, 2, 3))

    def mean_kernel(a, b):
        kernels = []
        for n in range(2):
            one = [np.array(length_one(x.flatten().tolist())) for x in a[n]]
            two = [np.array(length_one(x.flatten().tolist())) for x in b[n]]
            kernels += [float(p @ q) ** 2 for p in one for q in two]
        return np.mean(kernels)

    want = mean_kernel(t, t) + mean_kernel(s, s) - 2 * mean_kernel(s, t)
    assert float(features.neuron_selectivity(s, t)) == pytest.approx(want, rel=EXACT)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 2, 5)])
def test_variational_information_is_a_likelihood(shape):
    mu, t, scale = random_maps(shape, shape, (4,))
    variance = (1 + scale.exp()).log() + 1e-5
    std = variance.sqrt().reshape(4, *[1] * (len(shape) - 2))
    likelihood = torch.distributions.Normal(mu, std).log_prob(t).mean()
    want = -float(likelihood) - math.log(2 * math.pi) / 2
    got = features.variational_information(mu, t, scale)
    assert float(got) == pytest.approx(want, rel=EXACT)


@pytest.mark.parametrize(("p1", "p2"), [(2, 1), (2, 2), (1, 1), (3, 2)])
def test_factor_transfer_is_its_formula(p1, p2):
    s, t = random_maps((2, 3, 2, 2), (2, 5, 4, 4))
    got = float(features.factor_transfer(s, t, p1, p2))
    terms = []
    for a, b in zip(s.numpy(), pool(t, 2, 2).numpy(), strict=True):
        factors = [length_one([(place**p1).mean() for place in places(x)]) for x in (a, b)]
        terms += [abs(p - q) ** p2 for p, q in zip(*factors, strict=True)]
    assert got == pytest.approx(np.mean(terms), rel=EXACT)


@pytest.mark.parametrize("margin", [1.0, 0.5])
def test_activation_boundary_is_its_formula(margin):
    s, t = random_maps((5, 3, 2, 2), (5, 3, 2, 2))
    s.view(-1)[:4] = torch.tensor([margin, -margin, 0, 2])  # where the cases meet
    t.view(-1)[4:8] = 0
    total = 0.0
    for a, b in zip(s.flatten().tolist(), t.flatten().tolist(), strict=True):
        if b <= 0 and a > -margin:
            total += (a + margin) ** 2
        if b > 0 and a <= margin:
            total += (a - margin) ** 2
    assert float(features.activation_boundary(s, t, margin)) == pytest.approx(total / 5, rel=EXACT)


# ---- at the ends


@pytest.mark.parametrize(
    "loss",
    [
        features.hint,
        features.attention_transfer,
        features.factor_transfer,
        features.neuron_selectivity,
        lambda s, t: features.fsp((s, s), (t, t)),
    ],
)
def test_loss_of_an_equal_student_is_zero(loss):
    (maps,) = random_maps((4, 3, 5, 5))
    assert float(loss(maps, maps.clone())) == pytest.approx(0, abs=1e-15)


def test_activation_boundary_is_zero_where_all_is_beyond_the_margin_and_not_for_an_equal_student():
    (teacher,) = random_maps((4, 6))
    assert float(features.activation_boundary(2 * teacher.sign(), teacher)) == 0
    small = 0.1 * teacher
    assert float(features.activation_boundary(small, small)) > 1


def test_variational_information_is_least_at_the_mean_square_of_what_is_missed():
    mu, t = random_maps((200, 1), (200, 1))
    best = float((mu - t).square().mean())

    def at(variance):
        scale = torch.tensor([math.log(math.expm1(variance - 1e-5))], dtype=torch.float64)
        return float(features.variational_information(mu, t, scale))

    assert at(best) < min(at(0.9 * best), at(1.1 * best))
    assert at(best) == pytest.approx((1 + math.log(best)) / 2, rel=EXACT)


def test_unit_leaves_empty_vectors_empty_with_a_gradient_of_ordinary_size():
    x = torch.zeros(3, 4, dtype=torch.float64)
    x[1] = torch.tensor([3.0, 0, 4, 0])
    x.requires_grad_()
    y = features.unit(x)
    assert y.tolist() == [[0] * 4, [0.6, 0, 0.8, 0], [0] * 4]
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.abs().max() <= 1
    assert gradcheck(features.unit, torch.randn(3, 4, dtype=torch.float64, requires_grad=True))
