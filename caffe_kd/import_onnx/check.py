"""Compares a net with the ONNX model that it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..core.errors import ExportError
from ..export.runtime import difference_of, greatest_of
from ..net import Net
from ..proto import caffe_pb2 as pb
from ..proto.binary import LayerWeights
from .draft import Draft

# Two engines add in different orders: after some dozen layers float32 differs by about 1e-6.
TOLERANCE = 1e-4
_OTHER_BATCH = 3


@dataclass
class Report:
    """What a check found: the greatest difference and value of any output, and the samples."""

    difference: float = 0.0
    value: float = 0.0
    samples: int = 0


def net_of(draft: Draft, name: str) -> Net:
    """Return the net of a draft, with its weights."""
    param = pb.NetParameter(name=name, layer=draft.layers)
    net = Net(param, pb.TEST)
    types = {layer.name: layer.type for layer in draft.layers}
    net.copy_weights(
        (
            LayerWeights(layer, types[layer], list(blobs), [False] * len(blobs))
            for layer, blobs in draft.weights.items()
        ),
        str(draft.model.path),
    )
    return net


def check(net: Net, draft: Draft, samples: Sequence[Mapping[str, np.ndarray]] = ()) -> Report:
    """Compare the net's outputs with the model's on random values, then on given ones.

    An output may differ by at most ``1e-4 * greatest value``.

    Raises:
        ExportError: one differs by more; the message names the first layer that does.
    """
    model = draft.model
    generator = np.random.default_rng(1)
    batches = (None, _OTHER_BATCH) if any(i.varies for i in model.inputs) else (None,)
    trials = [{i.name: i.random(b, generator) for i in model.inputs} for b in batches]
    report = Report()
    for values in [*trials, *samples]:
        _compare(net, draft, values, report)
    return report


def _compare(net: Net, draft: Draft, values: Mapping[str, np.ndarray], report: Report) -> None:
    outputs = [value.name for value in draft.model.proto.graph.output]
    wanted = dict(zip(outputs, draft.model.run(values, outputs), strict=True))
    for node in net.nodes:
        node.layer.reset()
    given = {draft.names[n]: v for n, v in values.items() if n in draft.names}
    net.set_inputs({n: torch.from_numpy(np.array(v, np.float32)) for n, v in given.items()})
    with torch.no_grad():
        net.forward()
    for name in outputs:
        difference, greatest = _difference(net, draft, name, wanted[name])
        if not np.isfinite(wanted[name]).any() and wanted[name].size:
            raise ExportError(
                f"the model's output '{name}' is nowhere finite", str(draft.model.path)
            )
        if not difference <= TOLERANCE * greatest:
            raise ExportError(
                f"the net's output '{name}' differs from the model's by {difference:.3g}, where at "
                f"most {TOLERANCE:g} of its greatest value, {greatest:.3g}, is allowed; "
                + _first_difference(net, draft, values),
                str(draft.model.path),
            )
        report.difference = max(report.difference, difference)
        report.value = max(report.value, greatest)
    report.samples += next((len(v) for v in values.values() if v.ndim), 1)


def _difference(net: Net, draft: Draft, value: str, wanted: np.ndarray) -> tuple[float, float]:
    result = net.blobs[draft.names[value]].cpu().numpy()
    wanted = np.asarray(wanted, np.float32)
    if result.shape != wanted.shape:
        return float("inf"), greatest_of(wanted)
    return difference_of(result, wanted), greatest_of(wanted)


def _first_difference(net: Net, draft: Draft, values: Mapping[str, np.ndarray]) -> str:
    """Return which layer is the first to differ from the model."""
    value_of = {blob: value for value, blob in draft.names.items()}
    tops = [(node, top) for node in net.nodes for top in node.tops if top in value_of]
    names = [value_of[top] for _, top in tops if value_of[top] not in values]
    found = dict(zip(names, draft.model.run(values, names), strict=True))
    for node, top in tops:
        value = value_of[top]
        if value not in found:
            continue
        difference, greatest = _difference(net, draft, value, found[value])
        if not difference <= TOLERANCE * greatest:
            return (
                f"the first layer that differs is '{node.layer.name}' ({node.layer.type}), by "
                f"{difference:.3g}, its greatest value being {greatest:.3g}"
            )
    return "each layer by itself differs by less"
