import pytest
import torch

from caffe_kd.losses.normalization import (
    BATCH_SIZE,
    FULL,
    NONE,
    VALID,
    normalization_mode,
    normalizer,
    split_at_axis,
)
from caffe_kd.proto import caffe_pb2 as pb


@pytest.mark.parametrize(
    ("fields", "default", "expected"),
    [
        ({}, VALID, VALID),
        ({}, BATCH_SIZE, BATCH_SIZE),
        ({"normalize": True}, BATCH_SIZE, VALID),
        ({"normalize": False}, VALID, BATCH_SIZE),
        ({"normalization": FULL}, VALID, FULL),
        ({"normalization": VALID}, BATCH_SIZE, VALID),
        ({"normalization": NONE, "normalize": False}, VALID, NONE),
    ],
)
def test_normalization_mode_follows_the_field_then_the_older_one(fields, default, expected):
    assert normalization_mode(pb.LossParameter(**fields), default) == expected


@pytest.mark.parametrize(("mode", "expected"), [(FULL, 12), (VALID, 7), (BATCH_SIZE, 4), (NONE, 1)])
def test_normalizer_counts_what_the_mode_says(mode, expected):
    valid = torch.tensor([True] * 7 + [False] * 5)
    assert float(normalizer(mode, 4, 3, valid)) == expected


def test_normalizer_valid_without_ignored_labels_is_full():
    assert normalizer(VALID, 4, 3) == 12.0


@pytest.mark.parametrize("mode", [FULL, VALID, BATCH_SIZE, NONE])
def test_normalizer_with_nothing_to_count_is_one(mode):
    assert float(normalizer(mode, 0, 0, torch.zeros(5, dtype=torch.bool))) == 1


def test_normalizer_of_a_mask_needs_no_values():
    # A meta tensor has none, so reading the count back to the host would fail.
    counted = normalizer(VALID, 4, 3, torch.ones(12, dtype=torch.bool, device="meta"))
    assert counted.shape == ()


@pytest.mark.parametrize(
    ("axis", "expected"), [(0, (1, 2, 60)), (1, (2, 3, 20)), (-1, (24, 5, 1)), (2, (6, 4, 5))]
)
def test_dims_split_the_shape_at_the_class_axis(axis, expected):
    assert split_at_axis((2, 3, 4, 5), axis) == expected
