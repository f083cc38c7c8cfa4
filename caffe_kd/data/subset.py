"""A subset of a source's samples, as ``data_param`` selects: a range, without some classes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.errors import DataError
from .source import MemorySamples, SampleSource


class Subset(SampleSource):
    """Some samples of a source, renumbered from 0.

    Args:
        source: all samples.
        numbers: which of them, int64 [N].
    """

    def __init__(self, source: SampleSource, numbers: np.ndarray) -> None:
        self.name = source.name
        self.encoded = source.encoded
        self._source = source
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def read(self, index: int) -> tuple[np.ndarray, int]:
        """Return image [C, H, W] and label."""
        return self._source.read(int(self._numbers[index]))

    def label(self, index: int) -> int:
        """Return the label."""
        return self._source.label(int(self._numbers[index]))

    def datum(self, index: int) -> bytes:
        """Return the sample as a database holds it."""
        return self._source.datum(int(self._numbers[index]))


def select(source: SampleSource, data_param: Any) -> SampleSource:
    """Return the samples that ``first``, ``count`` and ``leave_out`` of a ``data_param`` select.

    Returns:
        ``source`` itself where they select all.

    Raises:
        DataError: the range is empty or goes beyond the samples, no sample is left, or a sample is
            damaged.
    """
    first, total = data_param.first, len(source)
    count = data_param.count if data_param.HasField("count") else total - first
    if count < 1 or first + count > total:
        given = f", count: {data_param.count}" if data_param.HasField("count") else ""
        raise DataError(
            "data_param asks for samples that are not there. "
            f"Received: first: {first}{given}, and {total} samples. Expected: a count of at least "
            f"1, and first + count <= {total}.",
            source.name,
        )
    if count == total and not data_param.leave_out:
        return source
    numbers = np.arange(first, first + count)
    if data_param.leave_out:
        labels = _labels(source, numbers)
        numbers = numbers[~np.isin(labels, list(data_param.leave_out))]
        if not len(numbers):
            raise DataError(
                "leave_out leaves no sample. Received: leave_out: "
                f"{', '.join(map(str, data_param.leave_out))}, and labels "
                f"{', '.join(map(str, np.unique(labels)))}.",
                source.name,
            )
    if isinstance(source, MemorySamples):
        return MemorySamples(*source.batch(numbers), source.name)
    return Subset(source, numbers)


def _labels(source: SampleSource, numbers: np.ndarray) -> np.ndarray:
    if isinstance(source, MemorySamples):
        return source.labels[numbers]
    return np.array([source.label(int(number)) for number in numbers], np.int64)
