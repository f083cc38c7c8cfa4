"""The float model against the int8 one: errors, outputs, time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx

from ..core.errors import ExportError
from ..export.latency import bound_run, clock

if TYPE_CHECKING:
    import onnxruntime as ort

Batch = Mapping[str, np.ndarray]
BATCHES = (1, 64)  # whose latency is measured
_RUNS = 300
_SECONDS = 3.0  # for a batch size, at most
_AXIS = 1  # of the classes


@dataclass
class Scored:
    """Where to read off whether a sample is classified rightly.

    Attributes:
        scores: the output with the scores.
        labels: the blob with the labels.
        ignored: a label that is not counted, or None.
    """

    scores: str
    labels: str
    ignored: int | None = None


@dataclass
class Evaluation:
    """What two models make of the same samples.

    Attributes:
        name: the samples.
        samples: how many.
        labels: how many of their labels count; 0: there are none.
        errors: wrong classes of the float and the int8 model.
        differing: samples of which they choose different classes; None: there are no classes.
        rms: the root of the mean square of the difference of all outputs.
    """

    name: str
    samples: int = 0
    labels: int = 0
    errors: tuple[int, int] = (0, 0)
    differing: int | None = None
    rms: float = 0.0


@dataclass
class Latency:
    """Microseconds of a run with one thread, float and int8."""

    batch: int
    runs: int
    float_us: float
    int8_us: float

    @property
    def factor(self) -> float:
        """How many times as long int8 takes."""
        return self.int8_us / self.float_us


def compared_outputs(model: onnx.ModelProto) -> list[str]:
    """Return the outputs to compare: of logits and their Softmax the logits."""
    names = {output.name for output in model.graph.output}
    softened = {
        top
        for node in model.graph.node
        if node.op_type == "Softmax" and names.intersection(node.input)
        for top in node.output
    }
    return [o.name for o in model.graph.output if o.name not in softened]


class Comparison:
    """Runs batches through a float and an int8 model and adds up how they differ."""

    def __init__(self, name: str, outputs: Sequence[str], scored: Scored | None) -> None:
        self.result = Evaluation(name)
        self._outputs = list(outputs)
        self._scored = scored
        self._squares, self._values = 0.0, 0

    def add(
        self,
        batch: Batch,
        inputs: Sequence[str],
        float_model: ort.InferenceSession,
        int8_model: ort.InferenceSession,
    ) -> None:
        """Run a batch, which may hold labels beside the inputs."""
        feeds = {name: batch[name] for name in inputs}
        pairs = [
            dict(zip(self._outputs, session.run(self._outputs, feeds), strict=True))
            for session in (float_model, int8_model)
        ]
        first, second = pairs
        count, result = len(next(iter(feeds.values()))), self.result
        result.samples += count
        different = np.zeros(count, bool)
        for name in self._outputs:
            a, b = first[name], second[name]
            if a.shape != b.shape:  # detections, of which there may be more or fewer
                different[:] = True
                result.differing = result.differing or 0
                continue
            self._squares += float(np.square(a.astype(np.float64) - b).sum())
            self._values += a.size
            if _has_classes(a, count):
                differ = (a.argmax(_AXIS) != b.argmax(_AXIS)).reshape(count, -1)
                different |= differ.any(1)
                result.differing = result.differing or 0
        if result.differing is not None:
            result.differing += int(different.sum())
        result.rms = float(np.sqrt(self._squares / self._values)) if self._values else 0.0
        self._count_errors(batch, first, second)

    def _count_errors(self, batch: Batch, first: Batch, second: Batch) -> None:
        scored, result = self._scored, self.result
        if scored is None or scored.labels not in batch or scored.scores not in first:
            return
        labels = batch[scored.labels].reshape(-1)
        counted = np.ones(len(labels), bool) if scored.ignored is None else labels != scored.ignored
        classes = [values[scored.scores].argmax(_AXIS).reshape(-1) for values in (first, second)]
        if any(len(chosen) != len(labels) for chosen in classes):
            return
        result.labels += int(counted.sum())
        a, b = (int(((chosen != labels) & counted).sum()) for chosen in classes)
        result.errors = result.errors[0] + a, result.errors[1] + b


def compare(
    name: str,
    batches: Iterable[Batch],
    inputs: Sequence[str],
    models: tuple[ort.InferenceSession, ort.InferenceSession],
    outputs: Sequence[str],
    scored: Scored | None,
) -> Evaluation:
    """Return what a float and an int8 model make of the same batches.

    Raises:
        ExportError: a model does not run.
    """
    comparison = Comparison(name, outputs, scored)
    for batch in batches:
        try:
            comparison.add(batch, inputs, *models)
        except RuntimeError as error:  # what onnxruntime's exceptions derive from
            raise ExportError(f"the model does not run on {name}: {error}") from error
    return comparison.result


def latencies(
    models: tuple[ort.InferenceSession, ort.InferenceSession], batch: Batch
) -> list[Latency]:
    """Return the median times of both models, which take turns in this thread.

    Args:
        models: float and int8.
        batch: samples to run; they are repeated where more are needed.
    """
    result = []
    for size in BATCHES:
        feeds = {name: np.resize(v, (size, *v.shape[1:])) for name, v in batch.items()}
        runs = [bound_run(session, feeds) for session in models]
        times: tuple[list[float], list[float]] = ([], [])
        end = time.perf_counter() + _SECONDS
        while len(times[0]) < _RUNS and (len(times[0]) < 5 or time.perf_counter() < end):
            for run, taken in zip(runs, times, strict=True):
                start = clock()
                run()
                taken.append(1e6 * (clock() - start))
        a, b = (statistics.median(taken) for taken in times)
        result.append(Latency(size, len(times[0]), a, b))
    return result


def _has_classes(values: np.ndarray, count: int) -> bool:
    return values.ndim > 1 and len(values) == count and values.shape[_AXIS] > 1
