import numpy as np
import pytest

from caffe_kd.logs.curves import (
    Curve,
    covers,
    is_noisy,
    scaled,
    smoothed,
    suits_log_scale,
    value_range,
)

RNG = np.random.default_rng(0)


def curve(values):
    y = np.array(values, dtype=np.float64)
    return Curve(np.arange(len(y), dtype=np.float64), y, "#000000")


def test_log_scale_for_a_loss_over_decades_only():
    assert suits_log_scale([curve([2.3, 0.5, 0.1, 0.01])])
    assert not suits_log_scale([curve([2.3, 2.0, 1.5, 1.2])])
    assert not suits_log_scale([curve([87.3, 2.0, 1.5, 1.2])])  # the first value doesn't count
    assert not suits_log_scale([curve([2.3, 0.5, 0.01, -0.1])])
    assert not suits_log_scale([curve([2.3, 0.5, 0.0, 0.0, 0.0])])
    assert not suits_log_scale([curve([])])


def test_log_scale_survives_a_few_zeros():
    assert suits_log_scale([curve([2.3] + [0.5, 0.01] * 20 + [0.0])])


def test_noise_is_reported_from_a_steady_fall():
    fall = np.exp(-np.arange(200) / 50)
    assert not is_noisy(curve(fall), log_scale=False)
    assert is_noisy(curve(fall + RNG.normal(0, 0.1, 200)), log_scale=False)
    assert not is_noisy(curve([1, 2, 1, 2, 1]), log_scale=False)  # too short to smooth


def test_smoothing_finds_the_course_below_the_noise():
    course = 2 - np.arange(1000) / 1000
    noise = RNG.normal(0, 0.2, 1000)
    error = smoothed(curve(course + noise), log_scale=False).y[1:] - course[1:]
    assert np.abs(error[25:]).max() < 0.1
    assert np.std(error) < 0.25 * np.std(noise)


def test_smoothing_leaves_a_straight_line_alone():
    line = curve(np.linspace(3, 1, 100))
    # At the end the window leans back by at most 1/40 of the length, twice, on a slope of 2.
    np.testing.assert_allclose(smoothed(line, log_scale=False).y, line.y, atol=2 / 40)
    np.testing.assert_allclose(smoothed(line, log_scale=False).y[:90], line.y[:90], atol=1e-12)


def test_smoothing_keeps_the_first_value_out():
    line = smoothed(curve([87.3] + [2.0] * 50), log_scale=False)
    assert line.y[0] == 87.3
    np.testing.assert_allclose(line.y[1:], 2.0)


def test_smoothing_leaves_a_short_curve_alone():
    short = curve([2.0, 1.0, 2.0, 1.0])
    np.testing.assert_array_equal(smoothed(short, log_scale=False).y, short.y)


def test_smoothing_on_a_log_scale_averages_logarithms():
    line = smoothed(curve([1.0] + [0.01, 1.0] * 200), log_scale=True)
    np.testing.assert_allclose(line.y[100:300], 0.1, rtol=0.15)


def test_smoothing_leaves_gaps_where_the_loss_is_not_a_number():
    y = [1.0] * 50 + [np.nan] * 10 + [1.0] * 50
    line = smoothed(curve(y), log_scale=False)
    assert np.isnan(line.y[50:60]).all()
    np.testing.assert_allclose(line.y[np.isfinite(y)], 1.0)


def test_range_leaves_out_a_first_value_far_off_only():
    assert value_range([curve([0.1, 0.95, 0.97, 0.98])], [], False) == (0.95, 0.98)
    assert value_range([curve([0.9, 0.95, 0.97, 0.98])], [], False) == (0.9, 0.98)
    # A later collapse must be seen.
    assert value_range([curve([0.1, 0.95, 0.97, 0.1])], [], False) == (0.1, 0.97)
    assert value_range([curve([0.1])], [], False) == (0.1, 0.1)


def test_range_covers_most_of_the_noise():
    noise = curve(np.r_[1.0, RNG.uniform(0, 2, 1000), 500.0])
    low, high = value_range([curve([1.0, 1.0, 1.1])], [noise], False)
    assert 0 <= low < 0.1 and 1.9 < high <= 2


def test_scaled_values_that_the_axis_cannot_show_are_nan():
    values = np.array([1.0, 0.0, -1.0, np.inf, np.nan, 100.0])
    np.testing.assert_array_equal(
        scaled(values, True), [0, np.nan, np.nan, np.nan, np.nan, 2], strict=True
    )


@pytest.mark.parametrize(
    ("above", "expected"), [([1, 1, 0.1], True), ([2, 2, 2], False), ([1], True), ([], False)]
)
def test_covers_where_curves_coincide(above, expected):
    assert covers(curve(above), curve([1, 1, 0.1])) is expected
