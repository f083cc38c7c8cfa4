from __future__ import annotations

import math

import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.losses.features import factor_transfer
from tests.helpers import make_layer
from tests.layers.pair_losses import check_pair_loss, loss_of
from tests.losses.reference_values import REFERENCE, reference_tensors

BODY = 'type: "FactorTransferLoss"'


def test_factor_transfer_loss_has_the_reference_value():
    values = reference_tensors()
    assert float(loss_of(BODY, values.fs, values.ft)) == pytest.approx(0.1005125, rel=REFERENCE)


@pytest.mark.parametrize("powers", ["", "p1: 3 p2: 2"])
def test_factor_transfer_loss_holds_what_all_do(powers):
    body = f"{BODY} factor_transfer_loss_param {{ {powers} }}"
    check_pair_loss(body, (3, 2, 2, 3), (3, 4, 4, 6))


def test_factor_transfer_loss_takes_its_powers_from_the_parameters():
    values = reference_tensors()
    loss = loss_of(f"{BODY} factor_transfer_loss_param {{ p1: 1 p2: 3 }}", values.fs, values.ft)
    assert float(loss) == float(factor_transfer(values.fs, values.ft, 1, 3))


@pytest.mark.parametrize("p2", [1, 2])
def test_factor_transfer_loss_of_the_paper_compares_all_values(p2):
    body = f"{BODY} factor_transfer_loss_param {{ p1: 0 p2: {p2} }}"
    check_pair_loss(body, (3, 2, 2, 3), (3, 2, 4, 6))
    s, t = torch.randn(3, 2, 2, 2), torch.randn(3, 2, 2, 2)
    terms = []
    for a, b in zip(s.flatten(1).tolist(), t.flatten(1).tolist(), strict=True):
        lengths = [math.sqrt(sum(x * x for x in record)) for record in (a, b)]
        terms += [abs(x / lengths[0] - y / lengths[1]) ** p2 for x, y in zip(a, b, strict=True)]
    assert float(loss_of(body, s, t)) == pytest.approx(sum(terms) / len(terms), rel=1e-5)


@pytest.mark.parametrize(
    ("powers", "lines"),
    [
        ("p1: 0", ["loss = mean over all values of |F(f_s) - F(f_t)|", "F(f) = n(f)"]),
        (
            "p1: 3 p2: 2",
            [
                "loss = mean over all values of |F(f_s) - F(f_t)|^2",
                "F(f) = n(mean over channels of f^3)",
            ],
        ),
    ],
)
def test_factor_transfer_loss_explains_its_powers(powers, lines):
    body = f"{BODY} factor_transfer_loss_param {{ {powers} }}"
    assert make_layer(body, (3, 2, 2, 2), (3, 2, 2, 2)).explain([]) == lines


@pytest.mark.parametrize(
    ("powers", "words"),
    [("p2: 0", "p2 must be at least 1"), ("p1: 0", "must have the same number of channels")],
)
def test_factor_transfer_loss_that_cannot_be_is_reported(powers, words):
    with pytest.raises(NetError, match=words):
        make_layer(f"{BODY} factor_transfer_loss_param {{ {powers} }}", (3, 2, 2, 2), (3, 4, 2, 2))


def test_factor_transfer_loss_of_what_is_no_map_is_reported():
    with pytest.raises(NetError, match="needs maps of 4 axes"):
        make_layer(BODY, (3, 4), (3, 4))
