"""Compares an exported model with the net it was made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch

from ..core.errors import ExportError
from ..layers.data.input import Input
from ..layers.shared.indices import IndexingLayer
from ..net import Net
from .check_layers import LayersDifferError, compare_layers
from .onnx import has_batch, output_names
from .preprocess import Preprocess
from .runtime import difference_of, differences, greatest_of, session_of, start

if TYPE_CHECKING:
    import onnxruntime as ort

BATCHES = (1, 2, 5)
# Two engines add in different orders: after some dozen layers float32 differs by about 1e-6.
TOLERANCE = 1e-4


@dataclass
class Report:
    """What a check found.

    Attributes:
        difference: the greatest absolute difference of any output value.
        value: the greatest absolute value among the outputs.
        samples: how many samples went through both.
        ties: for each output in which near ties were decided differently, how many of its values
            differ and how many there were.
    """

    difference: float = 0.0
    value: float = 0.0
    samples: int = 0
    ties: dict[str, tuple[int, int]] = field(default_factory=dict)


def check(
    net: Net,
    model: onnx.ModelProto,
    preprocess: Mapping[str, Preprocess] | None = None,
    samples: Sequence[Mapping[str, np.ndarray]] = (),
    outputs: Sequence[str] = (),
) -> Report:
    """Check that a model is valid, and compare its outputs in ONNX Runtime with the net's.

    Random inputs in batches of 1, 2 and 5, then the given ones, go through both. An output may
    differ by at most ``1e-4 * max(1, greatest value)``. Where one differs by more, each layer of
    the model is compared by itself (``compare_layers``). If all agree the model is right: rounding
    decided between two nearly equal values, in a pooling mask or an ArgMax, and the rest follows.

    Args:
        net: the deployed net that was exported.
        model: what `to_onnx` made of it.
        preprocess: as it was given to ``to_onnx``.
        samples: values for all inputs, as the model takes them: float32, or uint8 pixels.
        outputs: as they were given to ``to_onnx``.

    Raises:
        ExportError: the model is not valid, does not run, or its outputs differ from the net's.
    """
    session = _session(model)
    generator = np.random.default_rng(0)
    rules = preprocess or {}
    trials = [_random_inputs(net, batch, rules, generator) for batch in BATCHES]
    report = Report()
    with _inputs_kept(net), torch.no_grad():
        for values in [*trials, *samples]:
            problem = _compare(net, session, values, rules, outputs, report)
            if problem:
                try:
                    of_layers = compare_layers(net, model, values, rules, outputs)
                except LayersDifferError as error:
                    raise ExportError(f"{problem}; {error}") from error
                report.difference = max(report.difference, of_layers)
    return report


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # checker and shape inference have no other common root
        raise ExportError(f"the exported model is not valid: {error}") from error
    try:
        return session_of(model)
    except Exception as error:  # onnxruntime's exceptions have no public root
        raise ExportError(f"ONNX Runtime cannot load the model: {error}") from error


def _random_inputs(
    net: Net, batch: int, rules: Mapping[str, Preprocess], generator: np.random.Generator
) -> dict[str, np.ndarray]:
    values: dict[str, np.ndarray] = {}
    counts = index_counts(net)
    for name in net.inputs:
        shape = net.shapes[name]
        if has_batch(net, shape):
            shape = (batch, *shape[1:])
        if name in rules:
            values[name] = generator.integers(0, 256, shape, dtype=np.uint8)
        elif name in counts:
            values[name] = generator.integers(0, counts[name], shape).astype(np.float32)
        else:
            values[name] = generator.standard_normal(shape, dtype=np.float32)
    return values


def index_counts(net: Net) -> dict[str, int]:
    """Return the blobs that are indices, as in an Embed layer, and how many values each has."""
    counts: dict[str, int] = {}
    for node in reversed(net.nodes):
        passed_on = [counts[top] for top in node.tops if top in counts]
        own = node.layer.index_bottoms if isinstance(node.layer, IndexingLayer) else {}
        for index, bottom in enumerate(node.bottoms):
            known = [counts[bottom]] if bottom in counts else []
            limits = [own[index]] if index in own else passed_on
            if known or limits:
                counts[bottom] = min(known + limits)
    return counts


@contextmanager
def _inputs_kept(net: Net) -> Iterator[None]:
    """Restore the net's inputs, blobs and layer states at the end."""
    layers = [node.layer for node in net.nodes if isinstance(node.layer, Input)]
    before = [(list(layer.values), list(layer.shapes)) for layer in layers]
    blobs = dict(net.blobs)
    states = [node.layer.state() for node in net.nodes]
    try:
        yield
    finally:
        for node, state in zip(net.nodes, states, strict=True):
            if state:
                node.layer.restore(state)
        for layer, (values, shapes) in zip(layers, before, strict=True):
            layer.values, layer.shapes = values, shapes
        net.blobs.clear()
        net.blobs.update(blobs)


def _compare(
    net: Net,
    session: ort.InferenceSession,
    values: Mapping[str, np.ndarray],
    rules: Mapping[str, Preprocess],
    outputs: Sequence[str],
    report: Report,
) -> str:
    """Run both on the same samples and add to the report; return how they differ, or ""."""
    start(net, values, rules)
    net.forward()
    batch = len(next(iter(values.values())))
    try:
        results = session.run(None, dict(values))
    except Exception as error:  # onnxruntime's exceptions have no public root
        raise ExportError(
            f"the exported model does not run with a batch of {batch}: {error}"
        ) from error
    problem = ""
    for name, result in zip(output_names(net, outputs), results, strict=True):
        wanted = net.blobs[name].cpu().numpy()
        if result.shape != wanted.shape:
            raise ExportError(
                f"with a batch of {batch} the exported model's output '{name}' has the shape "
                f"{result.shape}, the net's {wanted.shape}"
            )
        if not np.isfinite(wanted).any():
            raise ExportError(
                f"the net's own output '{name}' is nowhere finite: its weights are not trained, "
                "or training has diverged"
            )
        greatest = greatest_of(wanted)
        report.value = max(report.value, greatest)
        allowed = TOLERANCE * max(1.0, greatest)
        difference = difference_of(result, wanted)
        if difference <= allowed:
            report.difference = max(report.difference, difference)
            continue
        # Also true for NaN, which differs from everything.
        count, total = report.ties.get(name, (0, 0))
        differing = int((~(differences(result, wanted) <= allowed)).sum())
        report.ties[name] = (count + differing, total + wanted.size)
        problem = problem or (
            f"with a batch of {batch} the exported model's output '{name}' differs from the net's "
            f"by {difference:.3g}, where at most {TOLERANCE:g} * max(1, {greatest:.3g}) is allowed"
        )
    report.samples += batch
    return problem
