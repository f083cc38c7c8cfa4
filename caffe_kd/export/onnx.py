"""Exports a deployed net as an ONNX model whose values have Caffe's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, version_converter

from ..core.errors import CaffeKDError, ExportError
from ..core.files import write_atomically
from ..core.version import VERSION
from ..layers import Shape
from ..layers.data.input import Input
from ..net import LayerNode, Net
from ..proto import caffe_pb2 as pb
from .graph import OPSET, Dims, Graph
from .preprocess import Preprocess
from .qdq import QdqWriter

BATCH = "batch"
_PRODUCER = "caffe_kd"
_MOST_BYTES = 2**31 - 1  # of a protobuf message


def to_onnx(
    net: Net,
    path: str | Path,
    preprocess: Mapping[str, Preprocess] | None = None,
    opset: int = OPSET,
    properties: Mapping[str, str] | None = None,
    outputs: Sequence[str] = (),
) -> onnx.ModelProto:
    """Write a net as an ONNX model and return it; see ``onnx_model``.

    Raises:
        CaffeKDError: the file cannot be written.
    """
    model = onnx_model(net, preprocess, opset, properties, outputs)
    write_atomically(path, model.SerializeToString())
    return model


def onnx_model(
    net: Net,
    preprocess: Mapping[str, Preprocess] | None = None,
    opset: int = OPSET,
    properties: Mapping[str, str] | None = None,
    outputs: Sequence[str] = (),
) -> onnx.ModelProto:
    """Return a net as an ONNX model.

    Inputs and outputs have the names of their blobs; dim 0 of the inputs is variable and called
    ``batch``. The outputs are the net's, and the logits where it ends in a Softmax. Parameter
    blobs are initializers ``<layer>.<i>`` in Caffe's order; a layer's only node has the layer's
    name, several are ``<layer>/<op>``. Where layers work in place the last one owns the blob's name
    (an input keeps its own), and earlier values are ``<blob>/<layer>``. Names that would collide
    get ``_2``, ``_3``, ….

    Args:
        net: a net of phase TEST as ``deploy`` makes it, with its weights.
        preprocess: for inputs that take uint8 pixels, their mean and scale.
        opset: the operators' version; if not 17, ONNX's version converter converts the model.
        properties: what the model's ``metadata_props`` hold besides producer and net.
        outputs: the blobs that the model outputs; empty: see ``output_names``.

    Raises:
        ExportError: the net is not a deploy net, a layer cannot be exported, or the model is too
            large for one file.
    """
    _check(net)
    model = _Exporter(net, preprocess or {}, outputs).model()
    if opset != OPSET:
        model = _converted(model, opset)
    set_facts(model, {"net": model.graph.name, **(properties or {})})
    return model


def set_facts(model: onnx.ModelProto, facts: Mapping[str, str]) -> None:
    """Set the model's ``metadata_props`` to the producer and these facts."""
    model.producer_name, model.producer_version = _PRODUCER, VERSION
    helper.set_model_props(model, {"producer": _PRODUCER, **facts})


def output_names(net: Net, wanted: Sequence[str] = ()) -> list[str]:
    """Return the model's outputs in the order the net makes them.

    By default they are the blobs that no layer consumes, and the logits under a final Softmax.
    """
    if wanted:
        return [name for name in net.shapes if name in wanted]
    names = set(net.outputs)
    for node in net.nodes:
        if node.layer.type == "Softmax" and names.issuperset(node.tops):
            names.update(node.bottoms)
    made = {top for node in net.nodes if not isinstance(node.layer, Input) for top in node.tops}
    return [name for name in net.shapes if name in names and name in made]


def value_names(
    net: Net, preprocess: Mapping[str, Preprocess], outputs: Sequence[str] = ()
) -> list[list[str]]:
    """Return the names of each layer's tops in the model that ``to_onnx`` makes."""
    exporter = _Exporter(net, preprocess, outputs)
    exporter.model()
    final = exporter.graph.final
    return [[final.get(name, name) for name in tops] for tops in exporter.tops]


def node_layers(net: Net, outputs: Sequence[str] = ()) -> dict[str, str]:
    """Return, by the names of the nodes that ``to_onnx`` makes, the layer each belongs to."""
    exporter = _Exporter(net, {}, outputs)
    exporter.model()
    return exporter.graph.layer_of


def shapes_at(net: Net, batch: int) -> list[tuple[list[Shape], list[Shape]]]:
    """Return each layer's bottom and top shapes for another batch, without running the net.

    Inputs whose dim 0 is that of the first input change with it; others keep theirs.

    Raises:
        ExportError: a layer cannot take the batch.
    """
    shapes: dict[str, Shape] = {}
    result = []
    for node in net.nodes:
        bottoms = [shapes[name] for name in node.bottoms]
        if isinstance(node.layer, Input):
            tops = [_with_batch(net, s, batch) for s in node.top_shapes]
        else:
            try:
                tops = node.layer.top_shapes(bottoms)
            except (CaffeKDError, RuntimeError, ValueError) as error:
                raise ExportError(
                    f"layer '{node.layer.name}' ({node.layer.type}) cannot take another batch "
                    f"than the net was written for (tried {batch}): {error}",
                    node.layer.proto.source_line or None,
                ) from error
        shapes.update(zip(node.tops, tops, strict=True))
        result.append((bottoms, tops))
    return result


def has_batch(net: Net, shape: Shape) -> bool:
    """Return whether dim 0 of an input's shape is the batch."""
    return bool(shape) and shape[0] == net.shapes[net.inputs[0]][0]


def _with_batch(net: Net, shape: Shape, batch: int) -> Shape:
    return (batch, *shape[1:]) if has_batch(net, shape) else shape


def _check(net: Net) -> None:
    if net.phase != pb.TEST:
        raise ExportError(f"net '{net.name}': a net is exported in phase TEST, not in TRAIN")
    if not net.inputs or not net.shapes[net.inputs[0]]:
        raise ExportError(
            f"net '{net.name}': an exported net has an Input layer with a batch as its first "
            "dim; `deploy` replaces a data layer by one"
        )
    size = sum(4 * param.blob.numel() for param in net.params)
    if size > _MOST_BYTES:
        raise ExportError(
            f"net '{net.name}': its parameters take {size} bytes, and a single ONNX file holds at "
            f"most {_MOST_BYTES}"
        )


class _Exporter:
    """Walks the layers and tracks which value a blob's name currently stands for."""

    def __init__(
        self, net: Net, preprocess: Mapping[str, Preprocess], outputs: Sequence[str] = ()
    ) -> None:
        self.net = net
        self.preprocess = preprocess
        self.graph = Graph(net.shapes)
        self.qdq = QdqWriter(net, self.graph)
        self.current: dict[str, str] = {}  # blob → value
        self.values: dict[str, Dims] = {}
        self.tops: list[list[str]] = []  # each layer's values
        self.outputs = output_names(net, outputs)
        self.last_writer = {top: node for node in net.nodes for top in node.tops}
        start = net.shapes[net.inputs[0]][0]
        self.batches = (start, start + 1)
        self.probes = [shapes_at(net, batch) for batch in self.batches]

    def model(self) -> onnx.ModelProto:
        inputs: dict[str, tuple[int, Dims]] = {}
        for node, *probes in zip(self.net.nodes, *self.probes, strict=True):
            if isinstance(node.layer, Input):
                dims = [self._dims(shapes) for shapes in zip(*(p[1] for p in probes), strict=True)]
                for top, top_dims in zip(node.tops, dims, strict=True):
                    inputs[top] = self._input(top, top_dims)
            else:
                self._layer(node, probes)
            self.tops.append([self.current[top] for top in node.tops])
        outputs = {self.current[blob]: self.values[self.current[blob]] for blob in self.outputs}
        name = self.net.name or "net"
        graph = self.graph.finish(name, inputs, outputs, self.values)
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(
            graph,
            producer_name=_PRODUCER,
            producer_version=VERSION,
            opset_imports=[opset],
            ir_version=helper.find_min_ir_version_for([opset]),
        )

    def _input(self, blob: str, dims: Dims) -> tuple[int, Dims]:
        """Add an input; the blob is the input itself, or its transformed pixels."""
        shape = self.net.shapes[blob]
        self.graph.define(blob, shape)
        self.current[blob] = blob
        if blob not in self.preprocess:
            return onnx.TensorProto.FLOAT, dims
        self.graph.begin(f"{blob}/preprocess")
        value = self._preprocessed(blob, self.preprocess[blob])
        self.graph.define(value, shape)
        self.values[value] = dims
        self.current[blob] = value
        return onnx.TensorProto.UINT8, dims

    def _preprocessed(self, pixels: str, rule: Preprocess) -> str:
        graph = self.graph
        value = graph.temporary("float")
        graph.node("Cast", [pixels], [value], to=onnx.TensorProto.FLOAT)
        operands: list[tuple[str, str, Any]] = []
        if rule.mean is not None:
            operands.append(("Sub", "mean", rule.mean[np.newaxis]))
        if rule.scale != 1.0:
            operands.append(("Mul", "scale", rule.scale))
        for op, hint, operand in operands:
            result = graph.temporary(op.lower())
            graph.node(op, [value, graph.constant(operand, hint)], [result])
            value = result
        return value

    def _layer(self, node: LayerNode, probes: list[tuple[list[Shape], list[Shape]]]) -> None:
        layer, graph = node.layer, self.graph
        bottoms = [self.current[name] for name in node.bottoms]
        tops = []
        for blob in node.tops:
            is_last = self.last_writer[blob] is node and blob not in self.net.inputs
            tops.append(blob if is_last else graph.unique(f"{blob}/{layer.name}"))
        for top, shape in zip(tops, node.top_shapes, strict=True):
            graph.define(top, shape)
        graph.begin(layer.name)
        bottoms = self.qdq.write(node, bottoms)
        with layer.naming("onnx"):
            layer.onnx(graph, bottoms, tops)
        for top, *shapes in zip(tops, *(p[1] for p in probes), strict=True):
            self.values[top] = self._dims(tuple(shapes))
        self.current.update(zip(node.tops, tops, strict=True))

    def _dims(self, shapes: tuple[Shape, ...]) -> Dims:
        """Return a value's dims, from its shapes at the two batches that were tried."""
        dims: list[int | str | None] = []
        for sizes in zip(*shapes, strict=True):
            if sizes == self.batches:
                dims.append(BATCH)
            else:
                dims.append(sizes[0] if sizes[0] == sizes[1] else None)
        return dims


def _converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    try:
        converted: onnx.ModelProto = version_converter.convert_version(model, opset)
    except Exception as error:  # the converter raises RuntimeError, and more in its C++ part
        reason = str(error).strip().splitlines()
        raise ExportError(
            f"the model cannot be converted from opset {OPSET} to {opset}: "
            f"{reason[0] if reason else type(error).__name__}"
        ) from error
    return converted
