from __future__ import annotations

import math

import pytest
import torch

from caffe_kd.core.errors import NetError
from tests.helpers import make_layer
from tests.layers.pair_losses import check_pair_loss, loss_of
from tests.losses.reference_values import REFERENCE, reference_tensors

BODY = 'type: "HintLoss"'


def test_hint_loss_has_the_reference_value():
    values = reference_tensors()
    assert float(loss_of(BODY, values.es, values.et)) == pytest.approx(2.148990, rel=REFERENCE)


@pytest.mark.parametrize("distance", ["MEAN_SQUARE", "NORM"])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 2)])
def test_hint_loss_holds_what_all_do(shape, distance):
    check_pair_loss(f"{BODY} hint_loss_param {{ distance: {distance} }}", shape, shape)


def test_norm_is_the_length_of_the_difference_over_the_batch():
    s, t = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2)
    pairs = zip(s.flatten().tolist(), t.flatten().tolist(), strict=True)
    want = math.sqrt(sum((a - b) ** 2 for a, b in pairs))
    got = loss_of(f"{BODY} hint_loss_param {{ distance: NORM }}", s, t)
    assert float(got) == pytest.approx(want, rel=1e-6)


def test_hint_loss_explains_the_distance_that_it_takes():
    norm = make_layer(f"{BODY} hint_loss_param {{ distance: NORM }}", (4, 3), (4, 3))
    assert norm.explain([]) == ["loss = sqrt(sum over all values of (f_s - f_t)^2)"]
    mean = make_layer(BODY, (4, 3), (4, 3))
    assert mean.explain([]) == ["loss = mean over all values of (f_s - f_t)^2"]


def test_norm_of_equal_features_is_0_without_a_gradient():
    layer = make_layer(f"{BODY} hint_loss_param {{ distance: NORM }}", (4, 3), (4, 3))
    s = torch.randn(4, 3, requires_grad=True)
    loss = layer(s, s.detach())
    (gradient,) = torch.autograd.grad(loss, s)
    assert loss.item() == 0
    assert not gradient.any()


def test_hint_loss_takes_vectors_of_either_form():
    s, t = torch.randn(4, 6), torch.randn(4, 6, 1, 1)
    torch.testing.assert_close(loss_of(BODY, s, t), loss_of(BODY, s, t.flatten(1)))


@pytest.mark.parametrize(
    ("student", "teacher", "words"),
    [
        ((4, 3, 2, 2), (4, 5, 2, 2), "same number of values per sample. Put a regressor"),
        ((4, 8, 2, 2), (4, 2, 4, 4), r"maps .* same shape.*student=\(4, 8, 2, 2\)"),
        ((4, 3), (5, 3), r"same number of samples. Received: student=\(4, 3\), teacher=\(5, 3\)"),
        ((4,), (4,), "at least 2 axes"),
    ],
)
def test_hint_loss_of_features_that_do_not_fit_is_reported(student, teacher, words):
    with pytest.raises(NetError, match=rf"layer 'L' \(HintLoss\): .*{words}"):
        make_layer(BODY, student, teacher)
