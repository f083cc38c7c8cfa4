"""Which nodes of a model become int8, by the layer types they come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import onnx

from ..core.errors import UsageError, did_you_mean
from .float_model import FloatModel

# Layers with weights, and the operators that multiply by them.
WEIGHTED = {
    "Convolution": ("Conv",),
    "ConvolutionDepthwise": ("Conv",),
    "DepthwiseConvolution": ("Conv",),
    "Deconvolution": ("ConvTranspose",),
    "InnerProduct": ("Gemm", "MatMul"),
}
# Layers that pass values on, and operators that do so in int8 about as exactly as in float. All
# else, such as normalization, Softmax or Sigmoid, stays float.
_PASSING = {
    *("ReLU", "ReLU6", "Pooling", "Flatten", "Reshape", "Permute", "Concat", "Eltwise", "Slice"),
    *("Dropout", "Split", "Crop"),
}
_PASSING_OPS = {
    *("Relu", "LeakyRelu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Flatten"),
    *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Concat", "Add", "Split", "Slice"),
}
# Their output has the range of their input in ONNX Runtime's quantiser.
_KEEP_RANGE = {
    *("MaxPool", "AveragePool", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice"),
}
# Their input has the range of their output: it is cut there anyway.
_CUT = {"Relu", "Clip"}


@dataclass
class Plan:
    """What of a model becomes int8.

    Attributes:
        weighted: by layer, the node that multiplies by its weights.
        nodes: the names of all nodes that become int8.
        values: the activations at them, whose ranges are needed.
        kept_float: values that stay float although an int8 node makes them.
        maker: by value, the layer that makes it.
        root: by value, the one whose range it has: in int8, what passes values on keeps it.
        flattened: by value that a layer reshapes for itself, the one that it reads.
    """

    weighted: dict[str, onnx.NodeProto] = field(default_factory=dict)
    nodes: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)
    kept_float: set[str] = field(default_factory=set)
    maker: dict[str, str] = field(default_factory=dict)
    root: dict[str, str] = field(default_factory=dict)
    flattened: dict[str, str] = field(default_factory=dict)

    def blob_of(self, value: str) -> str:
        """Return the blob that a value is."""
        return self.flattened.get(value, value)

    def root_of(self, value: str) -> str:
        """Return the value whose range a value has."""
        while value in self.root:
            value = self.root[value]
        return value


def make_plan(source: FloatModel, exclude: Collection[str] = ()) -> Plan:
    """Return what becomes int8: layers with weights, and what passes int8 values on between them.

    The outputs of the last layers with weights, such as logits, stay float, for a sample may exceed
    what calibration saw; so do those of MatMul, whose bias follows.

    Args:
        source: the float model.
        exclude: layers that stay float.

    Raises:
        UsageError: an excluded layer has no weights or is not in the net, or none is left.
    """
    types = {node.layer.name: node.layer.type for node in source.net.nodes}
    able = [name for name, kind in types.items() if kind in WEIGHTED]
    for name in exclude:
        if name not in able:
            what = f"is a {types[name]}, which has no weights" if name in types else "is not in it"
            raise UsageError(
                f"-exclude {name}: a layer with weights of net '{source.net.name}' is needed, and "
                f"it {what}.{did_you_mean(name, able)} Layers: {', '.join(able)}"
            )
    planner = _Planner(source, types, set(able) - set(exclude))
    if not planner.plan.weighted:
        raise UsageError(
            f"net '{source.net.name}' has no layer to quantise: Convolution, Deconvolution or "
            f"InnerProduct{', besides the excluded ones' if exclude else ''}"
        )
    return planner.plan


class _Planner:
    def __init__(
        self, source: FloatModel, types: Mapping[str, str], chosen: Collection[str]
    ) -> None:
        self.plan, self.types = Plan(), types
        graph = source.model.graph
        self.constants = {tensor.name for tensor in graph.initializer}
        self.layer_of = source.layer_of
        for start in source.net.nodes:
            if not start.bottoms:
                self.plan.maker.update(dict.fromkeys(start.tops, start.layer.name))
        for node in graph.node:
            # An output with a second name has a node of no layer.
            self.plan.maker.update((top, self.layer_of.get(node.name, "")) for top in node.output)
        nodes = list(graph.node)
        weighted = {
            node.name: self.layer_of[node.name]
            for node in nodes
            if self.layer_of.get(node.name) in chosen and self._multiplies(node)
        }
        reaching = _leading_to(nodes, weighted)
        int8: set[str] = set()
        for node in nodes:
            if node.name in weighted:
                self.plan.weighted[weighted[node.name]] = node
            elif not self._passes(node, int8, reaching):
                continue
            self.plan.nodes.append(node.name)
            kept = node.op_type == "MatMul" or not reaching.issuperset(node.output)
            (self.plan.kept_float if kept else int8).update(node.output)
            self._add_values(node)
        self._find_roots(nodes)

    def _is_of_weighted(self, node: onnx.NodeProto) -> bool:
        return self.types.get(self.layer_of.get(node.name, "")) in WEIGHTED

    def _multiplies(self, node: onnx.NodeProto) -> bool:
        operators = WEIGHTED[self.types[self.layer_of[node.name]]]
        return node.op_type in operators and node.input[1] in self.constants

    def _passes(
        self, node: onnx.NodeProto, int8: Collection[str], reaching: Collection[str]
    ) -> bool:
        """Return whether a node takes int8 values alone, and hands them to an int8 layer."""
        own = [x for x in node.input if x and x not in self.constants]
        kind = self.types.get(self.layer_of.get(node.name, ""))
        return (
            (kind in _PASSING or self._is_of_weighted(node))  # which may flatten what it reads
            and node.op_type in _PASSING_OPS
            and bool(own)
            and all(name in int8 for name in own)
            and all(name in reaching for name in node.output)
        )

    def _add_values(self, node: onnx.NodeProto) -> None:
        for name in [*node.input, *node.output]:
            if name and name not in self.constants and name not in self.plan.values:
                self.plan.values.append(name)

    def _find_roots(self, nodes: list[onnx.NodeProto]) -> None:
        chosen = set(self.plan.nodes)
        readers = Counter(name for node in nodes for name in node.input)
        for node in nodes:
            if node.op_type in _KEEP_RANGE and self._is_of_weighted(node):
                self.plan.flattened[node.output[0]] = node.input[0]
            if node.name not in chosen:
                continue
            if node.op_type in _KEEP_RANGE:
                self.plan.root[node.output[0]] = node.input[0]
            elif node.op_type in _CUT and readers[node.input[0]] == 1:
                self.plan.root[node.input[0]] = node.output[0]


def _leading_to(nodes: list[onnx.NodeProto], targets: Collection[str]) -> set[str]:
    """Return the values from which one of the nodes ``targets`` can be reached."""
    reaching: set[str] = set()
    for node in reversed(nodes):
        if node.name in targets or not reaching.isdisjoint(node.output):
            reaching.update(node.input)
    return reaching
