"""What a net costs as it is deployed, and how well it does on its test data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from ...core.errors import CaffeKDError
from ...export.deploy import DeployOptions, deploy
from ...export.latency import microseconds, one_thread
from ...net import Net, read_net
from ...proto import caffe_pb2 as pb
from ...pruning.costs import costs_of, total
from ...quantization.float_model import float_model
from ...quantization.samples import accuracy_blobs, samples_of

_CALIBRATION_SAMPLES = 512


@dataclass(frozen=True)
class Measured:
    """A net's figures.

    Attributes:
        parameters: with BatchNorm and Scale folded, as all figures.
        macs: multiply-adds of its weights for one sample.
        bytes: of its ONNX model.
        microseconds: for one sample on one thread of ONNX Runtime.
        errors: on its TEST data; None: it has none, or no Accuracy.
        tested: how many samples these are.
    """

    parameters: int
    macs: int
    bytes: int
    microseconds: float
    errors: int | None = None
    tested: int = 0

    @property
    def accuracy(self) -> float | None:
        """In percent."""
        return None if self.errors is None else 100 * (1 - self.errors / self.tested)

    def as_values(self) -> dict[str, Any]:
        """Return the figures by name, for a file."""
        return asdict(self)


def measure(param: Any, file: Path | None, weights: Path) -> Measured:
    """Return the figures of a float net.

    Raises:
        CaffeKDError: it cannot be deployed, or its data is absent.
    """
    found = float_model(param, file, weights, DeployOptions())
    return measure_model(found.model, found.net, param, file)


def measure_model(model: onnx.ModelProto, net: Net, param: Any, file: Path | None) -> Measured:
    """Return the figures of a model of a deployed net.

    Args:
        model: the model.
        net: the deployed net.
        param: the net with its TEST data.
        file: where it was read.
    """
    costs = total(costs_of(net))
    errors, tested = count_errors(model, net, param, file)
    return Measured(
        costs.parameters, costs.macs, model.ByteSize(), microseconds(model), errors, tested
    )


def count_errors(
    model: onnx.ModelProto, net: Net, param: Any, file: Path | None
) -> tuple[int | None, int]:
    """Return a model's errors on the net's TEST data, and how many samples that has."""
    state = DeployOptions().state(param)
    scored = accuracy_blobs(param, state)
    outputs = [output.name for output in model.graph.output]
    if scored is None or scored[0] not in outputs:
        return None, 0
    scores, labels, ignored = scored
    inputs = {name: net.shapes[name] for name in net.inputs}
    session = one_thread(model)
    errors = tested = 0
    for batch in samples_of(param, file, state, inputs).once():
        (values,) = session.run([scores], {name: batch[name] for name in inputs})
        wanted = batch[labels].reshape(-1)
        counts = wanted == wanted if ignored is None else wanted != ignored
        errors += int(((values.argmax(1).reshape(-1) != wanted) & counts).sum())
        tested += int(counts.sum())
    return (errors, tested) if tested else (None, 0)


def calibration_batches(param: Any, file: Path | None) -> int:
    """Return how many batches of TRAIN data calibrate; as many more are there to be held out.

    Raises:
        CaffeKDError: the data is absent.
    """
    options = DeployOptions()
    net = Net(deploy(param, file, options), pb.TEST, file)
    state = options.state(param)
    state.phase = pb.TRAIN
    samples = samples_of(param, file, state, {name: net.shapes[name] for name in net.inputs})
    wanted = -(-_CALIBRATION_SAMPLES // samples.batch)
    there = samples.count // samples.batch // 2 if samples.count else wanted
    return max(1, min(wanted, there))


def measure_teacher(net: Path, weights: Path) -> Measured | None:
    """Return the figures of a teacher; None where it cannot be measured alone."""
    try:
        return measure(read_net(net), net, weights)
    except CaffeKDError:
        return None
