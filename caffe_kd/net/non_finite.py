"""Finds where NaN and infinite values are, and which outputs are invalid because of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..layers.shared.sample_layer import SampleLayer
from ..proto.sources import DATA, source_of_layer

if TYPE_CHECKING:
    from . import LayerNode, Net


def in_parameters(nets: Iterable[Net]) -> str | None:
    """Return, in words, the first parameter blob with a NaN or infinite value; None: all finite."""
    for net in nets:
        for param in net.params:
            if not bool(torch.isfinite(param.blob).all()):
                layer = param.layer
                return (
                    f"parameter blob {param.index} of layer '{layer.name}' ({layer.type}) has "
                    f"{_count(param.blob)}"
                )
    return None


def first_in(net: Net) -> str | None:
    """Return, in words, where NaN or infinity first appears in a net's last pass; None: nowhere.

    The layers are searched in the order in which they run: a layer's parameters, then its tops.
    """
    params = {(id(p.layer), p.index): p.blob for p in net.params}
    for node in net.running:
        layer = node.layer
        for index, blob in enumerate(layer.blobs):
            blob = params.get((id(layer), index), blob)
            if not bool(torch.isfinite(blob).all()):
                return (
                    f"in parameter blob {index} of layer '{layer.name}' ({layer.type}), with "
                    f"{_count(blob)}: an update before this pass made them"
                )
        for index, name in enumerate(node.tops):
            top = net.blobs.get(name)
            if top is not None and not bool(torch.isfinite(top).all()):
                made = f"{_maker(node, index)}, with {_count(top)}{_sample(node, top)}"
                return f"in blob '{name}', {made}"
    return None


def _maker(node: LayerNode, index: int) -> str:
    layer = node.layer
    what = f"top {index} of layer '{layer.name}' ({layer.type})"
    return f"{what}, which the data is read by" if source_of_layer(layer.proto) in DATA else what


def _count(values: Tensor) -> str:
    nan, infinite = int(torch.isnan(values).sum()), int(torch.isinf(values).sum())
    kinds = [f"{count} {kind}" for count, kind in ((nan, "NaN"), (infinite, "infinite")) if count]
    return f"{' and '.join(kinds)} of {values.numel()} values"


def _sample(node: LayerNode, top: Tensor) -> str:
    """Return which of the batch's samples has the first such value, where a layer reads data."""
    layer = node.layer
    if node.bottoms or top.dim() == 0:
        return ""
    bad = ~torch.isfinite(top.detach().reshape(len(top), -1)).all(1)
    position = int(torch.nonzero(bad)[0])
    if not isinstance(layer, SampleLayer):
        return f"; the first in sample {position} of the batch (from 0)"
    last = layer.last
    numbers = np.arange(last.start, last.stop) if isinstance(last, slice) else last
    if len(numbers) != len(top):
        return f"; the first in sample {position} of the batch (from 0)"
    return f"; the first in sample {numbers[position]} of the data (from 0)"


def has_nan(values: Tensor) -> Tensor:
    """Return whether a value is NaN, as a tensor, so that a GPU need not be waited for."""
    return torch.isnan(values).any()


class OutputGuard:
    """Watches a net's outputs for NaN.

    An Accuracy of NaN scores is 1, because no other score is greater. So the bottoms of the output
    layers are checked as well as the outputs.

    Args:
        net: the net; its passes are reported by ``add``.
    """

    def __init__(self, net: Net) -> None:
        self._net = net
        self._taken: dict[str, list[str]] = {}
        for node in net.nodes:
            for top in node.tops:
                if top in net.outputs:
                    self._taken[top] = list(dict.fromkeys([*node.bottoms, top]))
        self._bad: dict[str, Tensor] = {}

    def add(self) -> None:
        """Add a pass."""
        names = {name for taken in self._taken.values() for name in taken}
        blobs = self._net.blobs
        bad = {name: has_nan(blobs[name]) for name in names if blobs[name].is_floating_point()}
        for name, value in bad.items():
            self._bad[name] = self._bad[name] | value if name in self._bad else value

    def outputs_with_nan(self) -> dict[str, str]:
        """Return the invalid outputs, each with the blob that held NaN."""
        bad = [name for name, value in self._bad.items() if bool(value)]
        found: dict[str, str] = {}
        for output, taken in self._taken.items():
            culprit: Sequence[str] = [name for name in taken if name in bad]
            if culprit:
                found[output] = culprit[0]
        return found
