"""Compares a model with its net layer by layer, each layer on the net's own values.

So a choice by rounding in one layer, such as which of two nearly equal values a pooling mask
names, changes nothing in the next one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import torch

from ..layers.data.input import Input
from ..net import Net
from .onnx import output_names, value_names
from .preprocess import Preprocess
from .runtime import difference_of, greatest_of, session_of, start

# One layer's sums in another order: float32 differs by about 1e-6 of the greatest value.
LAYER_TOLERANCE = 1e-5

Values = Mapping[str, np.ndarray]


class LayersDifferError(Exception):
    """A layer of the model differs from the net's, or cannot be run alone."""


def compare_layers(
    net: Net,
    model: onnx.ModelProto,
    values: Values,
    rules: Mapping[str, Preprocess],
    outputs: Sequence[str],
) -> float:
    """Return the greatest difference of any layer on its own.

    Args:
        net: the net.
        model: what ``to_onnx`` made of it.
        values: the model's inputs.
        rules: what the model does to inputs that are pixels.
        outputs: as they were given to ``to_onnx``.

    Raises:
        LayersDifferError: a value of a layer differs by more than ``1e-5 * max(1, greatest)``.
    """
    start(net, values, rules)
    parts = _Parts(model)
    blobs: dict[str, torch.Tensor] = {}
    names: dict[str, str] = {}  # blob → the model's value for it after the last layer
    greatest = 0.0
    for node, tops in zip(net.nodes, value_names(net, rules, outputs), strict=True):
        # Copied, since a layer may work in place.
        given = {names[b]: blobs[b].cpu().numpy().copy() for b in node.bottoms}
        made = node.layer(*(blobs[b] for b in node.bottoms))
        results = [made] if isinstance(made, torch.Tensor) else list(made)
        blobs.update(zip(node.tops, results, strict=True))
        names.update(zip(node.tops, tops, strict=True))
        if isinstance(node.layer, Input):
            given = {top: values[top] for top in node.tops}
        wanted = dict(zip(tops, (r.cpu().numpy() for r in results), strict=True))
        where = f"layer '{node.layer.name}' ({node.layer.type})"
        greatest = max(greatest, parts.compare(given, wanted, where))
    expected = output_names(net, outputs)
    if [output.name for output in model.graph.output] != expected:
        raise LayersDifferError("its outputs are not in the net's order")
    for blob in expected:
        value = blobs[blob].cpu().numpy()
        parts.compare({names[blob]: value}, {blob: value}, f"output '{blob}'")
    return greatest


class _Parts:
    """The parts of a model between given and wanted values."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._extractor = onnx.utils.Extractor(model)

    def compare(self, given: Values, wanted: Values, where: str) -> float:
        """Return the greatest difference of a part's values from those wanted.

        Raises:
            LayersDifferError: it is too great, or the part needs other values than the given ones.
        """
        results = {n: given[n] for n in wanted if n in given}  # a value that is passed on
        lacking = [n for n in wanted if n not in given]
        if lacking:
            results |= self._run(given, lacking, where)
        greatest = 0.0
        for name, value in wanted.items():
            difference = float("inf")
            if results[name].shape == value.shape:
                difference = difference_of(results[name], value)
            allowed = LAYER_TOLERANCE * max(1.0, greatest_of(value))
            if not difference <= allowed:  # not: NaN differs from everything
                raise LayersDifferError(
                    f"{where} by itself differs by {difference:.3g}, where at most {allowed:.3g} "
                    "is allowed"
                )
            greatest = max(greatest, difference)
        return greatest

    def _run(self, given: Values, wanted: Sequence[str], where: str) -> dict[str, np.ndarray]:
        try:
            session = session_of(self._extractor.extract_model(list(given), list(wanted)))
            return dict(zip(wanted, session.run(None, dict(given)), strict=True))
        except Exception as error:  # neither package's exceptions have a public root
            raise LayersDifferError(f"{where} cannot be run by itself: {error}") from error
