"""What to show of a curve: its scale, its range, its trend through the noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

LOG_SCALE = 10.0  # a log scale where the greatest value is this many times the smallest
NOISY = 3.0  # a curve that goes up and down this many times its range is drawn smoothed too
LONG = 20  # points; a shorter curve is left as it is
OUTLIER = 3.0  # a first value that widens the others' range this many times is cut off


@dataclass
class Curve:
    """A line to draw, with gaps where it is not a number; ``style`` counts the line styles."""

    x: Values
    y: Values
    colour: str
    style: int = 0


def covers(above: Curve, below: Curve) -> bool:
    """Return whether two curves coincide over a good part, so that one hides the other."""
    shared = min(len(above.x), len(below.x))
    same = (above.x[:shared] == below.x[:shared]) & (above.y[:shared] == below.y[:shared])
    return bool(same.mean() > 0.2) if shared else False


def _later(curve: Curve) -> Values:
    """The finite values without the first one, of the untrained net."""
    y = curve.y[1:] if len(curve.y) > 1 else curve.y
    return y[np.isfinite(y)]


def suits_log_scale(curves: Sequence[Curve]) -> bool:
    """Return whether the values, positive but for a few, span more than a decade."""
    values = np.concatenate([_later(curve) for curve in curves])
    positive = values[values > 0]
    if (values < 0).any() or len(positive) < 0.9 * len(values) or not len(positive):
        return False
    return bool(positive.max() / np.percentile(positive, 1) > LOG_SCALE)


def scaled(values: Values, log_scale: bool) -> Values:
    """Return the values as the axis shows them; those it cannot show are NaN."""
    values = np.where(np.isfinite(values), values, np.nan)
    if not log_scale:
        return values
    return np.log10(np.where(values > 0, values, np.nan))


def is_noisy(curve: Curve, log_scale: bool) -> bool:
    """Return whether the line goes up and down so much that its trend is hard to see."""
    y = scaled(_later(curve), log_scale)
    y = y[np.isfinite(y)]
    return len(y) >= LONG and bool(np.abs(np.diff(y)).sum() > NOISY * np.ptp(y))


def smoothed(curve: Curve, log_scale: bool) -> Curve:
    """Return the moving average, twice over a window of a twentieth of a long curve.

    The average is taken on the axis' scale, so that the line runs through the middle of the noise.
    The first value stays as it is, out of the others' average: it may be far from them.
    """
    if len(curve.y) < LONG:
        return curve
    y = scaled(curve.y, log_scale)
    y[1:] = _moving_average(_moving_average(y[1:]))
    return replace(curve, y=10**y if log_scale else y)


def _moving_average(values: Values) -> Values:
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    index = np.arange(len(values))
    half = max(2, len(values) // 40)
    # At the beginning, where a loss falls fast, the window shrinks rather than lean to one side.
    first = np.maximum(index - half, 0)
    last = np.minimum(index + np.minimum(half, index), len(values) - 1) + 1
    count = counts[last] - counts[first]
    average = (sums[last] - sums[first]) / np.maximum(count, 1)
    return np.where(finite, average, np.nan)


def value_range(
    curves: Sequence[Curve], noise: Sequence[Curve], log_scale: bool
) -> tuple[float, float]:
    """Return the least and greatest value to show, on the axis' scale.

    It is the range of the curves, without first values far off, and of all but 4 % of the noise.
    """
    every = scaled(np.concatenate([curve.y for curve in curves]), log_scale)
    later = scaled(np.concatenate([_later(curve) for curve in curves]), log_scale)
    low, high = np.nanmin(every), np.nanmax(every)
    later = later[np.isfinite(later)]
    if len(later) > 1 and high - low > OUTLIER * np.ptp(later) > 0:
        low, high = later.min(), later.max()
    for curve in noise:
        values = scaled(_later(curve), log_scale)
        if np.isfinite(values).any():
            low = min(low, np.nanpercentile(values, 2))
            high = max(high, np.nanpercentile(values, 98))
    return float(low), float(high)
