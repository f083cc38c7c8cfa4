"""Post-training quantisation of a net, from prototxt and weights to an int8 ONNX model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime import InferenceSession

from ..core.errors import DataError, WeightsError
from ..core.files import find, write_atomically
from ..export.deploy import images_of
from ..export.latency import one_thread
from ..export.onnx import onnx_model, set_facts, value_names
from ..export.preprocess import preprocess_of, properties_of
from ..layers import Shape
from ..net import read_net
from ..proto import caffe_pb2 as pb
from . import thresholds
from .calibrate import histograms
from .evaluate import Batch, Evaluation, Scored, compare, compared_outputs, latencies
from .float_model import FloatModel, float_model, transpose_weights
from .given import given_thresholds
from .options import CALIBRATED, Method, Options
from .plan import make_plan
from .quantizer import Range, dynamic_model, scales, static_model
from .results import BlobRange, Quantized
from .samples import Samples, accuracy_blobs, brings, samples_of
from .thresholds import Histogram

HELD_OUT = "TRAIN, held out"
_SECONDS_BETWEEN_REPORTS = 5

Batches = list[dict[str, np.ndarray]]


def quantize_file(
    model: str | Path, weights: str | Path, output: str | Path, options: Options | None = None
) -> Quantized:
    """Quantise the net of a prototxt file; see ``quantize``."""
    return quantize(read_net(model), model, weights, output, options)


def quantize(
    param: Any,
    file: str | Path | None,
    weights: str | Path,
    output: str | Path,
    options: Options | None = None,
) -> Quantized:
    """Write an int8 ONNX model of a net, and compare it with the float one.

    Args:
        param: the train/test net, with the layers of all phases.
        file: where it was read.
        weights: its .caffemodel or .caffemodel.h5.
        output: the file to write.
        options: how to quantise.

    Raises:
        CaffeKDError: the net, the weights, the data or the options are wrong.
    """
    return _Run(param, file, weights, options or Options()).quantize(Path(output))


class _Run:
    """What one quantisation works on."""

    def __init__(
        self, param: Any, file: str | Path | None, weights: str | Path, options: Options
    ) -> None:
        self.param, self.file, self.options = param, file, options
        self.source = float_model(param, file, weights, options.deploy)
        if self.source.rounded:
            raise WeightsError(
                f"{weights}: layer '{self.source.rounded[0]}' was trained with rounded values, and "
                "its ranges are here. caffe_kd export_onnx writes the int8 model that it learned as"
            )
        self.plan = make_plan(self.source, options.exclude)
        net = self.source.net
        self.inputs: dict[str, Shape] = {name: net.shapes[name] for name in net.inputs}
        self.outputs = compared_outputs(self.source.model)
        found = accuracy_blobs(param, self._state(pb.TEST))
        self.scored = None if found is None else Scored(*found)
        self.float_session = one_thread(self.source.model)

    def quantize(self, output: Path) -> Quantized:
        result = Quantized(output, self.options.method, self.source.model, self.source, self.plan)
        held_out: Batches = []
        ranges: dict[str, Range] = {}
        if self.options.dynamic:
            result.model = self._int8(self.source, ranges)
        else:
            calibration, held_out = self._training_samples()
            found = histograms(self.source.model, self.plan.values, calibration)
            cuts = self._cuts(found, held_out, result)
            ranges = self._ranges(found, cuts)
            result.model = self._int8(self.source, ranges)
            result.ranges = self._rows(result.model, found, cuts)
        written = result.model
        if self.options.preprocess:
            written = self._int8(*self._taking_pixels(ranges))
        set_facts(written, self._facts(result.method))
        content = written.SerializeToString()
        result.sizes = self.source.model.ByteSize(), len(content)
        self._evaluate(result, held_out)
        write_atomically(output, content)
        return result

    # ---- models

    def _int8(self, source: FloatModel, ranges: Mapping[str, Range]) -> onnx.ModelProto:
        options = self.options
        plan = self.plan if source is self.source else make_plan(source, options.exclude)
        if options.dynamic:
            return dynamic_model(source.model, plan, options.per_channel)
        return static_model(source.model, plan, ranges, options.per_channel, options.symmetric)

    def _taking_pixels(self, ranges: Mapping[str, Range]) -> tuple[FloatModel, dict[str, Range]]:
        """Return the model with mean and scale in it, and the ranges by the names there."""
        net, options = self.source.net, self.options.deploy
        images = images_of(self.param, options)
        rules = preprocess_of(images, self.inputs, lambda path: find(path, self.file))
        model = onnx_model(net, rules, outputs=options.outputs)
        transpose_weights(model)
        values = value_names(net, rules, options.outputs)
        renamed = {
            blob: value
            for node, names in zip(net.nodes, values, strict=True)
            for blob, value in zip(node.tops, names, strict=True)
            if blob in rules and not node.bottoms
        }
        source = FloatModel(net, model, self.source.layer_of, self.source.folded)
        return source, {renamed.get(name, name): r for name, r in ranges.items()}

    def _facts(self, method: Method) -> dict[str, str]:
        """Return what the model's ``metadata_props`` hold."""
        options = self.options
        images = images_of(self.param, options.deploy)
        known = {blob: layer for blob, layer in images.items() if blob in self.inputs}
        weights = "per channel" if options.per_channel else "per tensor"
        kind = "dynamic" if options.dynamic else f"static {method.value}"
        symmetric = ", symmetric" if options.symmetric else ""
        return {
            "net": self.source.model.graph.name,
            "caffe_kd.quantization": f"{kind}, weights {weights}{symmetric}",
            **({} if options.preprocess else properties_of(known)),
        }

    # ---- ranges

    def _cuts(
        self, found: Mapping[str, Histogram], held_out: Batches, result: Quantized
    ) -> dict[str, float]:
        """Return the threshold of each value; with AUTO, by the method that serves best."""
        if result.method is not Method.AUTO:
            return self._cuts_by(result.method, found)
        cuts = {}
        for method in CALIBRATED:
            self.options.report(f"Trying {method.value}")
            cuts[method] = self._cuts_by(method, found)
            session = one_thread(self._int8(self.source, self._ranges(found, cuts[method])))
            result.trials[method] = self._compare(HELD_OUT, held_out, session)
        result.method = min(result.trials, key=lambda method: result.trials[method].rms)
        return cuts[result.method]

    def _cuts_by(self, method: Method, found: Mapping[str, Histogram]) -> dict[str, float]:
        choose: dict[Method, Callable[[Histogram], float]] = {
            Method.MSE: thresholds.mse,
            Method.ENTROPY: thresholds.entropy,
            Method.PERCENTILE: partial(thresholds.percentile, percent=self.options.percent),
        }
        roots = {self.plan.root_of(name) for name in found}
        cut = choose.get(method, thresholds.minmax)
        cuts = {name: float(np.float32(cut(found[name]))) for name in found if name in roots}
        if method is Method.GIVEN:
            path = self.options.ranges
            given = given_thresholds(self.param, path, self.source, self.plan, found)
            cuts.update({self.plan.root_of(name): value for name, value in given.items()})
        return {name: cuts[self.plan.root_of(name)] for name in found}

    @staticmethod
    def _ranges(found: Mapping[str, Histogram], cuts: Mapping[str, float]) -> dict[str, Range]:
        return {name: found[name].range_at(cuts[name]) for name in found}

    def _rows(
        self, model: onnx.ModelProto, found: Mapping[str, Histogram], cuts: Mapping[str, float]
    ) -> list[BlobRange]:
        rows: dict[str, BlobRange] = {}
        steps = scales(model)
        for name in found:
            blob = self.plan.blob_of(name)
            if name not in steps or blob in rows:
                continue
            histogram, cut = found[name], cuts[name]
            rows[blob] = BlobRange(
                *(blob, self.plan.maker[blob], histogram.low, histogram.high),
                *(cut, *steps[name], histogram.clipped(cut)),
            )
        return list(rows.values())

    # ---- samples

    def _state(self, phase: int) -> Any:
        state = self.options.deploy.state(self.param)
        state.phase = phase
        return state

    def _training_samples(self) -> tuple[Batches, Batches]:
        """Return the batches that calibrate and those held out, which follow them."""
        options = self.options
        samples = samples_of(self.param, self.file, self._state(pb.TRAIN), self.inputs)
        count = options.iterations
        options.report(f"Calibrating on {count * samples.batch} samples of {samples.name}")
        calibration = [samples.next() for _ in range(count)]
        if samples.count:
            count = max(0, min(count, samples.count // samples.batch - count))
        if options.method is Method.AUTO and not count:
            raise DataError(
                f"AUTO compares the methods on held-out samples, and of the {samples.count} of "
                f"{samples.name} {options.iterations} batches of {samples.batch} calibrate. "
                "Fewer -iterations leave some",
                str(self.file) if self.file else None,
            )
        return calibration, [samples.next() for _ in range(count)]

    def _evaluate(self, result: Quantized, held_out: Batches) -> None:
        session = one_thread(result.model)
        some = held_out[0] if held_out else None
        if held_out:
            result.evaluations.append(self._compare(HELD_OUT, held_out, session))
        for samples in self._test_sets():
            self.options.report(f"Comparing on {samples.name}")
            batches = samples.once(self.options.test_iterations)
            result.evaluations.append(self._compare(samples.name, batches, session))
            some = some or samples.next()
        if self.options.timed:
            self.options.report("Timing float and int8")
            inputs = {name: some[name] for name in self.inputs} if some else self._random()
            result.latencies = latencies((self.float_session, session), inputs)

    def _test_sets(self) -> list[Samples]:
        state = self._state(pb.TEST)
        sets = []
        if brings(self.param, state, self.inputs):
            sets.append(samples_of(self.param, self.file, state, self.inputs))
        for path in self.options.evaluate:
            param = read_net(path)
            sets.append(samples_of(param, path, self._state(pb.TEST), self.inputs))
        return sets

    def _compare(
        self, name: str, batches: Iterable[Batch], session: InferenceSession
    ) -> Evaluation:
        models = (self.float_session, session)
        batches = self._reporting(name, batches)
        return compare(name, batches, list(self.inputs), models, self.outputs, self.scored)

    def _reporting(self, name: str, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield batches; report how many samples have passed, every few seconds."""
        done, last = 0, time.monotonic()
        for batch in batches:
            yield batch
            done += len(next(iter(batch.values())))
            if time.monotonic() - last > _SECONDS_BETWEEN_REPORTS:
                last = time.monotonic()
                self.options.report(f"{name}: {done:,} samples")

    def _random(self) -> dict[str, np.ndarray]:
        generator = np.random.default_rng(0)
        return {
            name: generator.random((1, *shape[1:]), np.float32)
            for name, shape in self.inputs.items()
        }
