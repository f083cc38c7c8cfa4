"""The values that a model's blobs take on calibration samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from ..core.errors import ExportError
from ..export.runtime import session_of
from .thresholds import BINS, Histogram

Batch = Mapping[str, np.ndarray]


def histograms(
    model: onnx.ModelProto, values: Sequence[str], batches: Sequence[Batch]
) -> dict[str, Histogram]:
    """Run calibration samples through a model; return what its values are.

    The batches pass twice: for the least and greatest values, then for the histograms between them.
    So the values of one batch at most are in memory.

    Args:
        model: the float model.
        values: the names of the inputs and inner values that are wanted.
        batches: values for all inputs, and others.

    Raises:
        ExportError: a value is not finite.
    """
    inputs = [value.name for value in model.graph.input]
    inner = [name for name in values if name not in inputs]
    session = session_of(_with_outputs(model, inner))

    def runs() -> Iterable[Batch]:
        for batch in batches:
            feeds = {name: batch[name] for name in inputs}
            yield {**feeds, **dict(zip(inner, session.run(inner, feeds), strict=True))}

    ends: dict[str, tuple[float, float]] = {}
    for found in runs():
        for name in values:
            low, high = float(found[name].min()), float(found[name].max())
            if not np.isfinite([low, high]).all():
                raise ExportError(
                    f"'{name}' is not finite on the calibration samples: the net cannot be "
                    "quantised"
                )
            before = ends.get(name, (low, high))
            ends[name] = min(low, before[0]), max(high, before[1])
    result = {
        name: Histogram(low, high, np.zeros(BINS, np.int64)) for name, (low, high) in ends.items()
    }
    for found in runs():
        for name in values:
            result[name].add(found[name])
    return result


def _with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """Return a copy of a model that has inner values among its outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {output.name for output in copy.graph.output}
    for name in names:
        if name not in known:
            value = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            copy.graph.output.append(value)
    return copy
