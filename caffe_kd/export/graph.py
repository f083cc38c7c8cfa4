"""The ONNX graph under construction, as the layers see it.

The exporter calls ``begin`` before each layer's ``onnx``; what the layer then adds gets its name.
Values have one namespace in ONNX and nodes another; in each, a name that is taken gets ``_2``,
``_3``, …. The names of blobs are reserved first.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from ..core.errors import ExportError

if TYPE_CHECKING:
    from ..layers import Layer, Shape

OPSET = 17  # what the layers write

Dims = Sequence[int | str | None]  # a name or None: a dim that is known only at run time


class Names:
    """Gives unique names."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def unique(self, wanted: str) -> str:
        """Return ``wanted``, or ``wanted_2``, ``wanted_3``, … if it is taken, and take it."""
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name


class Graph:
    """Collects nodes, initializers and the shapes of values.

    Args:
        blobs: the blobs' names, reserved for the blobs.
    """

    def __init__(self, blobs: Iterable[str]) -> None:
        self._values = Names()
        self._plain = {self._values.unique(name) for name in blobs}
        self._node_names = Names()
        self._nodes: list[onnx.NodeProto] = []
        self._layer_name = ""
        self._layer_start = 0  # the layer's first node
        self._layer_count = 0
        self._shapes: dict[str, Shape] = {}
        self._aliases: dict[str, str] = {}
        self.final: dict[str, str] = {}  # once finished: the names of values with aliases
        self.layer_of: dict[str, str] = {}  # by node: the layer that added it
        # By (layer's number, 0 for a parameter blob and 1 for the rest, index): Caffe's order.
        self._initializers: dict[tuple[int, int, int], onnx.TensorProto] = {}
        # Each with its blob, kept alive as long as its id is a key here.
        self._blob_names: dict[tuple[int, Shape], tuple[torch.Tensor, str]] = {}
        self._replaced: dict[tuple[int, int], str] = {}

    # ---- for the layers

    def node(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> None:
        """Add an ONNX operator that computes the values ``outputs`` from ``inputs``."""
        self._nodes.append(helper.make_node(op, list(inputs), list(outputs), name=op, **attributes))

    def constant(self, value: Any, hint: str) -> str:
        """Add a constant, int64 for integers and else float32, and return its name."""
        array = np.asarray(value)
        return self.constant_of(
            array.astype(np.int64 if array.dtype.kind in "iub" else np.float32), hint
        )

    def constant_of(self, array: np.ndarray, hint: str) -> str:
        """Add a constant of the array's own type and return its name."""
        key = (self._layer_count, 1, len(self._initializers))
        return self._initialize(key, f"{self._layer_name}/{hint}", array)

    def replace_blob(self, layer: Layer, index: int, name: str) -> None:
        """Let ``blob`` return a value in place of a layer's parameter blob."""
        self._replaced[id(layer), index] = name

    def blob(self, layer: Layer, index: int) -> str:
        """Add parameter blob ``index`` of a layer as ``<layer>.<index>`` and return its name.

        A blob shared between layers is stored once, under the name of the layer that uses it first.
        """
        if (id(layer), index) in self._replaced:
            return self._replaced[id(layer), index]
        value = layer.blobs[index]
        owner = layer.parameters_in_order[index]
        known = (id(owner), tuple(value.shape))
        if known not in self._blob_names:
            array = value.detach().cpu().float().contiguous().numpy()
            key = (self._layer_count, 0, index)
            name = self._initialize(key, f"{layer.name}.{index}", array)
            self._blob_names[known] = (owner, name)
        return self._blob_names[known][1]

    def shape(self, name: str) -> Shape:
        """Return the shape a bottom or top has in the Caffe net.

        The exported graph must keep dim 0, the batch, variable.
        """
        return self._shapes[name]

    def temporary(self, hint: str) -> str:
        """Return a name for a value between the nodes of one layer."""
        return self._values.unique(f"{self._layer_name}/{hint}")

    def alias(self, bottom: str, top: str) -> None:
        """Make a top an alias of its bottom, without a node."""
        self._aliases[top] = bottom

    def source(self, name: str) -> str:
        """Return the value that a name is an alias of; itself if it is none."""
        while name in self._aliases:
            name = self._aliases[name]
        return name

    def splice_torch(self, layer: Layer, bottoms: list[str], tops: list[str]) -> None:
        """Export a layer alone by ``torch.onnx`` and add its nodes.

        The names of its inner values and constants begin with the layer's name.

        Raises:
            ExportError: torch.onnx cannot export it.
        """
        inner = _export_alone(layer, [self.shape(name) for name in bottoms])
        names = {"": ""} | {f"bottom{i}": name for i, name in enumerate(bottoms)}
        used = {name for node in inner.node for name in node.input}
        for index in range(len(layer.blobs)):
            if f"blob{index}" in used:
                names[f"blob{index}"] = self.blob(layer, index)
        for value, top in zip(inner.output, tops, strict=True):
            if value.name in names:  # an input returned unchanged
                self.alias(names[value.name], top)
            else:
                names[value.name] = top
        for tensor in inner.initializer:
            key = (self._layer_count, 1, len(self._initializers))
            wanted = f"{self._layer_name}/{tensor.name}"
            names[tensor.name] = self._initialize(key, wanted, numpy_helper.to_array(tensor))
        for node in inner.node:
            for output in node.output:
                if output not in names:
                    names[output] = self.temporary(output)
            node.input[:] = [names[name] for name in node.input]
            node.output[:] = [names[name] for name in node.output]
            node.name = node.op_type
            self._nodes.append(node)

    # ---- for the exporter

    def unique(self, wanted: str) -> str:
        """Return a name for a value that no other value has."""
        return self._values.unique(wanted)

    def begin(self, layer_name: str) -> None:
        """Assign what is added from now on to a layer."""
        self.end()
        self._layer_name = layer_name
        self._layer_start = len(self._nodes)
        self._layer_count += 1

    def define(self, name: str, shape: Shape) -> None:
        """Set the shape of a value."""
        self._shapes[name] = shape

    def end(self) -> None:
        """Name the nodes of the layer: a single one as the layer, several ``<layer>/<op>``."""
        nodes = self._nodes[self._layer_start :]
        for node in nodes:
            single = len(nodes) == 1
            wanted = self._layer_name if single else f"{self._layer_name}/{node.name}"
            node.name = self._node_names.unique(wanted)
            self.layer_of[node.name] = self._layer_name
        self._layer_start = len(self._nodes)

    def finish(
        self,
        name: str,
        inputs: Mapping[str, tuple[int, Dims]],
        outputs: Mapping[str, Dims],
        values: Mapping[str, Dims],
    ) -> onnx.GraphProto:
        """Return the graph.

        Args:
            name: the graph's name.
            inputs: element type and dims of each input.
            outputs: dims of each output.
            values: dims of the other values, as far as known.
        """
        self.end()
        final = self.final = self._final_names(inputs, outputs)
        for node in self._nodes:
            node.input[:] = [final.get(n, n) for n in node.input]
            node.output[:] = [final.get(n, n) for n in node.output]
        for output in outputs:
            if final.get(output, output) != output:  # the value's name is another output or input
                node_name = self._node_names.unique(output)
                source = final[output]
                self._nodes.append(helper.make_node("Identity", [source], [output], node_name))
        float_type = onnx.TensorProto.FLOAT
        shapes = {final.get(n, n): dims for n, dims in values.items()}
        return helper.make_graph(
            self._nodes,
            name,
            [helper.make_tensor_value_info(n, *given) for n, given in inputs.items()],
            [helper.make_tensor_value_info(n, float_type, d) for n, d in outputs.items()],
            [self._initializers[key] for key in sorted(self._initializers)],
            value_info=[
                helper.make_tensor_value_info(n, float_type, d)
                for n, d in shapes.items()
                if n not in inputs and n not in outputs
            ],
        )

    def _initialize(self, key: tuple[int, int, int], wanted: str, array: np.ndarray) -> str:
        name = self._values.unique(wanted)
        self._initializers[key] = numpy_helper.from_array(array, name)
        return name

    def _final_names(self, inputs: Iterable[str], outputs: Iterable[str]) -> dict[str, str]:
        """Return the name of each value that has aliases, and of those aliases.

        One value can have one name: an input's, else an output's, else a blob's.
        """
        members: dict[str, list[str]] = {}
        for alias in self._aliases:
            root = self.source(alias)
            members.setdefault(root, [root]).append(alias)
        final: dict[str, str] = {}
        for group in members.values():
            for names in (set(inputs), set(outputs), self._plain, set(group)):
                chosen = next((n for n in group if n in names), None)
                if chosen is not None:
                    break
            final.update((member, str(chosen)) for member in group)
        return final


class _Alone(torch.nn.Module):
    """A layer whose parameter blobs are inputs too, after its bottoms."""

    def __init__(self, layer: Layer, bottoms: int) -> None:
        super().__init__()
        self._layer = (layer,)  # in a tuple: the blobs must not become parameters of the export
        self._bottoms = bottoms

    def forward(self, *values: torch.Tensor) -> Any:
        (layer,) = self._layer
        blobs = layer._blobs
        layer._blobs = list(values[self._bottoms :])  # type: ignore[arg-type]
        try:
            return layer(*values[: self._bottoms])
        finally:
            layer._blobs = blobs


def _export_alone(layer: Layer, shapes: Sequence[Shape]) -> onnx.GraphProto:
    """Return a layer's graph; its inputs are ``bottom0``, … and ``blob0``, …, batch variable."""
    device = layer.context.device
    # Positive and not whole, so that no logarithm or index changes what is exported.
    bottoms = tuple(torch.rand(shape, device=device) + 0.5 for shape in shapes)
    blobs = tuple(b.detach() for b in layer.parameters_in_order)
    bottom_names = [f"bottom{i}" for i in range(len(bottoms))]
    names = bottom_names + [f"blob{i}" for i in range(len(blobs))]
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings():
            # The exporter that needs no further package; torch deprecates it.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Alone(layer, len(bottoms)).eval(),
                (*bottoms, *blobs),
                buffer,  # type: ignore[arg-type]  # annotated for paths only
                input_names=names,
                dynamic_axes={
                    n: {0: "batch"} for n, s in zip(bottom_names, shapes, strict=True) if s
                },
                opset_version=OPSET,
                dynamo=False,
            )
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise ExportError(
            f"layer '{layer.name}' ({layer.type}) cannot be exported: torch.onnx says: "
            f"{reason[0] if reason else type(error).__name__}. Give its class a method "
            "'onnx(self, graph, bottoms, tops)'",
            layer.proto.source_line or None,
        ) from error
    return onnx.load_from_string(buffer.getvalue()).graph
