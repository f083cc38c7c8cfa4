"""How long a net takes in ONNX Runtime."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING

import numpy as np
import onnx

from ..core.errors import ExportError

if TYPE_CHECKING:
    import onnxruntime as ort

_SECONDS = 0.4  # of measuring, and a quarter of it before
_FEWEST, _MOST = 10, 2000  # runs
_PROFILED = 100  # runs; each writes an event for each node
_ADDED = re.compile(r"^fused |_nchwc$|_token_\d+$")
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
    inputs = _inputs(session, batch)
    _times(session, inputs, _SECONDS / 4)
    return 1e6 * median(_times(session, inputs, _SECONDS))


def node_shares(model: onnx.ModelProto) -> dict[str, float]:
    """Return the share of a run for one sample that each node takes, by ONNX Runtime's profiler.

    A node that ONNX Runtime runs as part of another counts there and is left out; what it adds
    itself, such as another order of values, belongs to no node, so that the sum is below 1.
    """
    with tempfile.TemporaryDirectory() as folder:
        session = one_thread(model, profile=Path(folder) / "profile")
        inputs = _inputs(session, 1)
        for _ in range(_PROFILED):
            session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    spent: dict[str, list[int]] = {}
    for event in events:
        name, found = re.subn("_kernel_time$", "", event["name"])
        if found:
            spent.setdefault(name, []).append(event["dur"])
    # The quickest three quarters, for what other programs take falls on single runs.
    typical = {k: mean(sorted(v)[: max(1, len(v) * 3 // 4)]) for k, v in spent.items()}
    total = sum(typical.values())
    nodes = {node.name for node in model.graph.node}
    shares: dict[str, float] = {}
    for name, value in typical.items():
        node = _ADDED.sub("", name)  # what ONNX Runtime adds to the name of a node it has changed
        if node in nodes and total:
            shares[node] = shares.get(node, 0.0) + value / total
    return shares


def _inputs(session: ort.InferenceSession, batch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    inputs = {}
    for value in session.get_inputs():
        shape = [size if isinstance(size, int) else batch for size in value.shape]
        pixels = rng.integers(0, 256, shape) if "uint8" in value.type else rng.random(shape)
        inputs[value.name] = pixels.astype("uint8" if "uint8" in value.type else np.float32)
    return inputs


def _times(
    session: ort.InferenceSession, inputs: dict[str, np.ndarray], seconds: float
) -> list[float]:
    run = bound_run(session, inputs)
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < _FEWEST or (time.perf_counter() - begun < seconds and len(times) < _MOST):
        started = clock()
        run()
        times.append(clock() - started)
    return times


def bound_run(
    session: ort.InferenceSession, inputs: Mapping[str, np.ndarray]
) -> Callable[[], None]:
    """Return a run with input and output bound beforehand: passing them by Python takes 2 µs."""
    binding = session.io_binding()
    for name, value in inputs.items():
        binding.bind_cpu_input(name, value)
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return partial(session.run_with_iobinding, binding)


def one_thread(model: onnx.ModelProto, profile: Path | None = None) -> ort.InferenceSession:
    """Return a session on the CPU that runs in the caller's thread and prints nothing.

    Args:
        model: what it runs.
        profile: how the name of the profile's file begins; None: no profile.

    Raises:
        ExportError: ONNX Runtime cannot load the model.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4  # its errors are raised as exceptions as well
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    try:
        return ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's exceptions have no public root
        raise ExportError(f"ONNX Runtime cannot load the model: {error}") from error
