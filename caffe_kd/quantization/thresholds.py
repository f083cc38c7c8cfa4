"""Where to cut the values of a blob, by the methods of calibration.

A threshold T stands for the range from ``max(min, -T)`` to ``min(max, T)``, which takes in 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 2048
_CUTS = 81  # candidates of MSE, from a fifth of the greatest value to all of it
_LEAST_CUT = 0.2


@dataclass
class Histogram:
    """The values of a blob.

    Attributes:
        low: the least.
        high: the greatest.
        counts: how many values |x| > 0 are in each of ``BINS`` bins from 0 to ``peak``.
        zeros: how many values are 0, which int8 represents exactly.
    """

    low: float
    high: float
    counts: np.ndarray
    zeros: int = 0

    @property
    def peak(self) -> float:
        """The greatest |x|."""
        return max(abs(self.low), abs(self.high))

    def add(self, values: np.ndarray) -> None:
        """Count values, which are within low and high."""
        magnitudes = np.abs(values[values != 0])
        self.zeros += values.size - magnitudes.size
        if magnitudes.size:
            self.counts += np.histogram(magnitudes, BINS, (0, self.peak))[0]

    def range_at(self, threshold: float) -> tuple[float, float]:
        """Return the range that a threshold stands for."""
        return max(min(self.low, 0.0), -threshold), min(max(self.high, 0.0), threshold)

    def clipped(self, threshold: float) -> float:
        """Return the share of the values beyond a threshold, to the width of a bin."""
        if threshold >= self.peak:
            return 0.0
        first = int(np.ceil(threshold / self.peak * BINS - 1e-6))
        return float(self.counts[first:].sum() / (self.counts.sum() + self.zeros))


def minmax(histogram: Histogram) -> float:
    """Return the greatest |x|: nothing is cut."""
    return histogram.peak


def percentile(histogram: Histogram, percent: float) -> float:
    """Return the least threshold that ``percent`` of the values stay within."""
    running = histogram.zeros + np.cumsum(histogram.counts)
    index = int(np.searchsorted(running, percent / 100 * running[-1]))
    return histogram.peak * min(index + 1, BINS) / BINS


def mse(histogram: Histogram) -> float:
    """Return the threshold with the least mean square of the error.

    With a step s between two int8 values, rounding costs ``s^2 / 12`` on the average and cutting
    ``(|x| - T)^2``.
    """
    middles = (np.arange(BINS) + 0.5) * histogram.peak / BINS
    candidates = np.linspace(_LEAST_CUT, 1, _CUTS) * histogram.peak
    costs = []
    for threshold in candidates:
        low, high = histogram.range_at(threshold)
        rounding = ((high - low) / 255) ** 2 / 12
        cost = np.where(middles > threshold, (middles - threshold) ** 2, rounding)
        costs.append(float((histogram.counts * cost).sum()))
    return float(candidates[int(np.argmin(costs))])


def entropy(histogram: Histogram) -> float:
    """Return the threshold by which int8 keeps most of the distribution, as TensorRT has it.

    The values within T, those beyond counted in the last bin, have the distribution P; merged into
    the levels of int8 and spread again over the bins that are not empty, Q. The threshold has the
    least Kullback-Leibler divergence ``sum of P log(P / Q)``.

    Source: Migacz 2017, 8-bit inference with TensorRT.
    """
    low, high = histogram.range_at(histogram.peak)
    levels = max(2, round(255 * histogram.peak / (high - low))) if high > low else 2
    best, least = BINS, np.inf
    for end in range(levels, BINS + 1):
        divergence = _divergence(histogram.counts, end, levels)
        if divergence < least:
            best, least = end, divergence
    return histogram.peak * best / BINS


def _divergence(counts: np.ndarray, end: int, levels: int) -> float:
    inside = counts[:end].astype(np.float64)
    reference = inside.copy()
    reference[-1] += counts[end:].sum()
    level = np.arange(end) * levels // end
    filled = reference > 0
    sums = np.bincount(level, inside, levels)
    bins = np.bincount(level, filled, levels)
    spread = np.divide(sums, bins, out=np.zeros(levels), where=bins > 0)[level]
    total, other = reference.sum(), spread[filled].sum()
    if not total or not other:
        return float(np.inf)
    p = reference[filled] / total
    # A bin that holds cut values alone has nothing in Q: a little in its place, as all do it.
    q = np.maximum(spread[filled] / other, 1e-9)
    return float((p * np.log(p / q)).sum())
