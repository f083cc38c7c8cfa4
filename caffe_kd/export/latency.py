"""How long a net takes in ONNX Runtime."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import onnx

from ..core.errors import ExportError

if TYPE_CHECKING:
    import onnxruntime as ort

_SECONDS = 0.4  # of measuring, and a quarter of it before
_FEWEST, _MOST = 10, 2000  # runs
# What other programs take does not count, where the system counts finely what a thread takes.
_IS_FINE = time.get_clock_info("thread_time").resolution <= 1e-6
clock = time.thread_time if _IS_FINE else time.perf_counter  # for sessions of one thread


def microseconds(model: onnx.ModelProto, batch: int = 1) -> float:
    """Return the median time of a run, on one thread of the CPU.

    Args:
        model: its inputs' dim 0 may vary, and is the batch then.
        batch: how many samples a run has.
    """
    session = one_thread(model)
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
        started = clock()
        session.run(None, inputs)
        times.append(clock() - started)
    return times


def one_thread(model: onnx.ModelProto) -> ort.InferenceSession:
    """Return a session on the CPU that runs in the caller's thread and prints nothing.

    Raises:
        ExportError: ONNX Runtime cannot load the model.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4  # its errors are raised as exceptions as well
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        return ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's exceptions have no public root
        raise ExportError(f"ONNX Runtime cannot load the model: {error}") from error
