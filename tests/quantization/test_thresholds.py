"""Where each method cuts a distribution whose right cut is known."""

from __future__ import annotations

import numpy as np
import pytest

from caffe_kd.quantization import thresholds
from caffe_kd.quantization.thresholds import BINS, Histogram

# 1,000 values 0.1, 0.2, ... 10, and one far away.
OUTLIER = np.append(np.tile(np.arange(1, 101) / 10, 10), 100)


def histogram(values):
    values = np.asarray(values, np.float32)
    result = Histogram(float(values.min()), float(values.max()), np.zeros(BINS, np.int64))
    for part in np.array_split(values, 3):
        result.add(part)
    return result


def test_minmax_takes_the_outlier_and_percentile_leaves_it():
    found = histogram(OUTLIER)
    assert thresholds.minmax(found) == 100
    assert 9.8 < thresholds.percentile(found, 99) < 10.1
    assert thresholds.percentile(found, 100) == 100


def test_percentile_counts_zeros_too():
    found = histogram([*[0] * 98, 1, 2])
    assert thresholds.percentile(found, 98) < 0.01
    assert thresholds.percentile(found, 99) == pytest.approx(1, abs=0.01)


def test_entropy_leaves_an_outlier_of_a_smooth_distribution():
    values = np.abs(np.random.default_rng(0).normal(0, 1, 20_000))
    # It cannot go below 255 of its bins, an eighth of the greatest value.
    assert 2.4 < thresholds.entropy(histogram([*values, 20])) < 10


def test_mse_has_the_least_error_of_its_candidates():
    values = np.append(np.random.default_rng(0).laplace(0, 1, 500_000), 40)
    found = histogram(values)

    def error(threshold):
        low, high = found.range_at(threshold)
        step = (high - low) / 255
        rounded = (np.round(values / step) * step).clip(low, high)
        return float(np.square(values - rounded).mean())

    chosen = thresholds.mse(found)
    assert chosen < 0.9 * found.peak
    candidates = [error(share * found.peak) for share in np.linspace(0.2, 1, 81)]
    assert error(chosen) < 1.05 * min(candidates)
    assert error(chosen) < 0.7 * error(found.peak)


def test_mse_keeps_values_without_a_tail():
    assert thresholds.mse(histogram(np.arange(256) / 256)) == 255 / 256


def test_a_range_takes_in_zero_and_no_more_than_the_values():
    found = histogram([-1, 2, 3])
    assert found.range_at(3) == (-1, 3)
    assert found.range_at(0.5) == (-0.5, 0.5)
    assert histogram([2, 3]).range_at(9) == (0, 3)


def test_share_of_clipped_values():
    found = histogram([*[0] * 5, -4, 1, 2, 3, 4])
    assert found.clipped(4) == 0
    assert found.clipped(2.5) == 0.3
    assert found.clipped(0.5) == 0.5


@pytest.mark.parametrize("method", [thresholds.minmax, thresholds.mse, thresholds.entropy])
def test_a_blob_of_zeros_has_the_threshold_0(method):
    found = histogram(np.zeros(10))
    assert method(found) == 0
    assert found.clipped(0) == 0
