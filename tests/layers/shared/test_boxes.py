from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_kd.layers.shared.boxes import decode, overlap, rounded, suppress
from caffe_kd.proto import caffe_pb2 as pb

CODES = pb.PriorBoxParameter

# Some float32 operations on values of the order of 1.
ATOL = 1e-6


def float32(*rows):
    return np.array(rows, np.float32)


PRIOR = float32((0.2, 0.4, 0.6, 1.0))  # 0.4 wide, 0.6 high, centre (0.4, 0.7)
CODE = float32((1, -1, 0.5, 2))
VARIANCE = float32((0.1, 0.1, 0.2, 0.2))


@pytest.mark.parametrize(
    ("code_type", "want"),
    [
        (CODES.CORNER, (0.3, 0.3, 0.7, 1.4)),
        (CODES.CORNER_SIZE, (0.2 + 0.04, 0.4 - 0.06, 0.6 + 0.04, 1.0 + 0.24)),
        (
            CODES.CENTER_SIZE,
            (
                *(0.44 - 0.2 * np.exp(0.1), 0.64 - 0.3 * np.exp(0.4)),
                *(0.44 + 0.2 * np.exp(0.1), 0.64 + 0.3 * np.exp(0.4)),
            ),
        ),
    ],
)
def test_prediction_is_decoded_by_its_type(code_type, want):
    np.testing.assert_allclose(decode(CODE, PRIOR, VARIANCE, code_type)[0], want, atol=ATOL)


@pytest.mark.parametrize("code_type", CODES.CodeType.values())
def test_prediction_of_nothing_is_the_prior(code_type):
    got = decode(np.zeros_like(CODE), PRIOR, 1.0, code_type)
    np.testing.assert_allclose(got, PRIOR, atol=ATOL)


@pytest.mark.parametrize("code_type", CODES.CodeType.values())
def test_variance_of_one_is_variance_encoded_in_the_target(code_type):
    ones = np.ones_like(VARIANCE)
    assert np.array_equal(decode(CODE, PRIOR, 1.0, code_type), decode(CODE, PRIOR, ones, code_type))


@pytest.mark.parametrize(
    ("other", "want"),
    [
        ((0, 0, 2, 2), 1),
        ((1, 1, 3, 3), 1 / 7),
        ((0, 0, 1, 1), 1 / 4),
        ((2, 0, 4, 2), 0),  # they touch
        ((5, 5, 6, 6), 0),
        ((2, 2, 0, 0), 0),  # the wrong way round
        ((1, 1, 1, 1), 0),  # no area
    ],
)
def test_overlap_is_intersection_over_union(other, want):
    assert overlap(float32((0, 0, 2, 2))[0], float32(other)) == pytest.approx([want])


def test_box_that_a_better_one_covers_goes():
    boxes = float32((0, 0, 2, 2), (0, 0, 2, 1.9), (0, 0, 2, 1), (5, 5, 6, 6))
    assert suppress(boxes, 0.5) == [0, 2, 3]  # the third has exactly 0.5
    assert suppress(boxes, 0.4) == [0, 3]
    assert suppress(boxes, 1) == [0, 1, 2, 3]


def test_box_that_went_covers_nothing():
    boxes = float32((0, 0, 10, 1), (3, 0, 13, 1), (6, 0, 16, 1))
    assert suppress(boxes, 0.5) == [0, 2]


def test_eta_lowers_the_threshold_down_to_a_half():
    # Overlaps with the first of each place: 0.8; 0.7 and 0.4.
    boxes = float32((0, 0, 10, 1), (0, 0, 8, 1), (20, 0, 30, 1), (20, 0, 27, 1), (20, 0, 24, 1))
    assert suppress(boxes, 0.9) == [0, 1, 2, 3, 4]
    assert suppress(boxes, 0.9, eta=0.7) == [0, 2, 4]  # 0.9, then 0.63, then 0.441
    assert suppress(float32((0, 0, 10, 1), (0, 0, 4.5, 1)), 0.5, eta=0.1) == [0, 1]


def test_nothing_is_suppressed_of_nothing():
    assert suppress(np.empty((0, 4), np.float32), 0.5) == []


def test_boxes_that_are_no_numbers_do_no_harm():
    nan, inf = float("nan"), float("inf")
    boxes = float32((-inf, -inf, inf, inf), (nan, 0, 1, 1), (0, 0, 1, 1))
    assert suppress(boxes, 0.5)[0] == 0


def test_halves_are_rounded_away_from_zero():
    below = float(np.nextafter(np.float32(0.5), np.float32(0)))
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.4, -0.6, below, 8388609.0])
    assert rounded(x).tolist() == [1, 2, 3, -1, -2, -3, 0, -1, 0, 8388609]
