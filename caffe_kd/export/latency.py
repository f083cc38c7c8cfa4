"""How long a net takes in ONNX Runtime."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import onnx

if TYPE_CHECKING:
    import onnxruntime as ort

_SECONDS = 0.4  # of measuring, and a quarter of it before
_FEWEST, _MOST = 10, 2000  # runs


def microseconds(model: onnx.ModelProto, batch: int = 1) -> float:
    """Return the median time of a run, on one thread of the CPU.

    Args:
        model: its inputs' dim 0 may vary, and is the batch then.
        batch: how many samples a run has.
    """
    session = _session(model)
    rng = np.random.default_rng(0)
    inputs = {}
    for value in session.get_inputs():
        shape = [size if isinstance(size, int) else batch for size in value.shape]
        pixels = rng.integers(0, 256, shape) if "uint8" in value.type else rng.random(shape)
        inputs[value.name] = pixels.astype("uint8" if "uint8" in value.type else np.float32)
    _times(session, inputs, _SECONDS / 4)
    return 1e6 * median(_times(session, inputs, _SECONDS))


def _times(
    session: ort.InferenceSession, inputs: dict[str, np.ndarray], seconds: float
) -> list[float]:
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < _FEWEST or (time.perf_counter() - begun < seconds and len(times) < _MOST):
        started = time.perf_counter()
        session.run(None, inputs)
        times.append(time.perf_counter() - started)
    return times


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
