"""ONNX nodes of a quantised net: pairs of QuantizeLinear and DequantizeLinear (QDQ).

A pair rounds a value to levels of uint8, with the same step behind each layer that it goes through
up to the one that reads it. Weights are int8 and a bias is int32, each behind a DequantizeLinear. A
runtime joins them with the layer between to one that computes with integers; the logits stay float.
Levels of fewer than 8 bits are those of 8 bits, cut off.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ..layers import Layer
from ..layers.shared import fake_quantize
from ..layers.shared.fake_quantize import FLOAT
from ..layers.shared.quantized_layer import LayerRounding, ValueRounding, rounding_of
from ..net import LayerNode, Net
from ..net.quantized_values import rounded_layers
from .graph import Graph

_BYTE = 8


class QdqWriter:
    """Writes what the layers of a net round.

    Args:
        net: the net.
        graph: where the nodes go.
    """

    def __init__(self, net: Net, graph: Graph) -> None:
        self._graph = graph
        self._values: dict[tuple[int, int], ValueRounding] = {}  # by node and bottom
        self._pairs: dict[tuple[str, int], str] = {}  # by value and its rounding
        for layer in rounded_layers(net):
            if layer.rounding.value is not None:
                for node, bottom in layer.bottoms:
                    self._values[id(node), bottom] = layer.rounding.value

    def write(self, node: LayerNode, bottoms: list[str]) -> list[str]:
        """Add what a layer reads and multiplies by; return the values that it takes instead."""
        taken = []
        for index, name in enumerate(bottoms):
            value = self._values.get((id(node), index))
            taken.append(name if value is None else self._pair(name, value))
        rounding = rounding_of(node.layer)
        if rounding is not None:
            self._write_blobs(node.layer, rounding)
            if rounding.value is not None and node.layer.type == "InnerProduct":
                taken = [self._flat(node, taken[0], rounding.value)]
        return taken

    def _pair(self, value: str, rounding: ValueRounding) -> str:
        """Return a value rounded by a pair of nodes, the same for all that round it equally."""
        graph = self._graph
        key = graph.source(value), id(rounding)
        if key not in self._pairs:
            step = graph.constant(float(rounding.step), "step")
            zero = graph.constant_of(np.array(int(rounding.zero), np.uint8), "zero")
            levels, rounded = graph.temporary("levels"), graph.temporary("rounded")
            graph.node("QuantizeLinear", [value, step, zero], [levels])
            if rounding.bits < _BYTE:
                least = graph.constant_of(np.array(0, np.uint8), "least")
                top = np.array(fake_quantize.top_level(rounding.bits), np.uint8)
                levels, uncut = graph.temporary("cut"), levels
                graph.node("Clip", [uncut, least, graph.constant_of(top, "top")], [levels])
            graph.node("DequantizeLinear", [levels, step, zero], [rounded])
            graph.define(rounded, graph.shape(value))
            self._pairs[key] = self._pairs[rounded, id(rounding)] = rounded
        return self._pairs[key]

    def _flat(self, node: LayerNode, value: str, rounding: ValueRounding) -> str:
        """Return what an InnerProduct reads as a matrix, rounded too, for it to become a QGemm."""
        shape = self._graph.shape(value)
        if node.layer.param.axis not in (1, 1 - len(shape)) or len(shape) == 2:
            return value
        flat = self._graph.temporary("flat")
        self._graph.node("Flatten", [value], [flat], axis=1)
        self._graph.define(flat, (shape[0], int(np.prod(shape[1:]))))
        return self._pair(flat, rounding)

    def _write_blobs(self, layer: Layer, rounding: LayerRounding) -> None:
        graph, blobs = self._graph, [blob.detach() for blob in layer.blobs]
        if rounding.bits == FLOAT:
            return
        is_transposed = layer.type == "InnerProduct" and layer.param.transpose
        axis = 1 if is_transposed else rounding.axis
        steps = rounding.steps.detach()
        full = fake_quantize.along(steps, axis, blobs[0].dim()) if steps.numel() > 1 else steps
        most = fake_quantize.weight_level(rounding.bits)
        levels = (blobs[0] / full).round().clamp(-most, most)
        graph.replace_blob(layer, 0, self._dequantized(layer, 0, levels, np.int8, steps, axis))
        bias_steps = rounding.bias_steps(blobs[1].numel()) if len(blobs) > 1 else None
        if bias_steps is not None:
            levels = fake_quantize.bias_levels(blobs[1], bias_steps.detach())
            bias = self._dequantized(layer, 1, levels, np.int32, bias_steps.detach(), 0)
            graph.replace_blob(layer, 1, bias)

    def _dequantized(
        self, layer: Layer, index: int, levels: Tensor, kind: type, steps: Tensor, axis: int
    ) -> str:
        """Add a blob as integers and return the value that they stand for."""
        graph = self._graph
        stored = graph.constant_of(
            levels.cpu().contiguous().numpy().astype(kind), f"levels.{index}"
        )
        scales = steps.cpu().numpy()
        scales = scales[0] if scales.size == 1 else scales
        names = [stored, graph.constant(scales, f"steps.{index}")]
        names.append(graph.constant_of(np.zeros(np.shape(scales), kind), f"zeros.{index}"))
        value = graph.temporary(f"blob{index}")
        graph.node("DequantizeLinear", names, [value], axis=axis)
        return value
