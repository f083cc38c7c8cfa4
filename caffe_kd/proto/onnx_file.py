"""What is known of an ONNX model before it runs, and whether it may run.

The file may come from anywhere. ONNX Runtime executes no code in a model, but it opens the files
that the model names, allocates what the shapes ask for, and runs its loops.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import CaffeKDError, ParseError
from ..core.files import read_bytes
from ..core.memory import machine_bytes
from .wire import LEN, MAX_FIELDS, Damaged, Walker

MAX_BYTES = 2**31 - 1  # of a protobuf message
_ENDLESS = ("Loop",)  # operators that may run without end


@dataclass
class Port:
    """An input or output of a model; a dynamic dim is None, a dynamic shape too."""

    name: str
    shape: tuple[int | None, ...] | None


@dataclass
class Ports:
    """A model's inputs and outputs, and the external files of its weights."""

    inputs: list[Port]
    outputs: list[Port]
    files: list[Path]


def read_ports(path: str | Path) -> Ports:
    """Return a model's inputs and outputs.

    Raises:
        ParseError: the file is missing, damaged, or not an ONNX model; or it names files outside
            its folder, holds a loop that may never end, or needs more memory than there is.
    """
    import onnx
    from google.protobuf.message import DecodeError

    content = read_bytes(path, MAX_BYTES)
    _check_count(content, path)
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise ParseError(f"is not an ONNX model, or is damaged: {error}", str(path)) from None
    if not model.graph.node or not model.graph.output:
        raise ParseError("is not an ONNX model: it has no graph", str(path))
    files = sorted({file for graph in _graphs(model) for file in _files(graph, Path(path))})
    _check_memory(model, path)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [_port(value) for value in model.graph.input if value.name not in weights]
    return Ports(inputs, [_port(value) for value in model.graph.output], files)


# Fields of ModelProto, GraphProto and NodeProto that hold messages; a message of no bytes takes a
# hundred or two once it is read.
_GRAPH, _NODE, _ATTRIBUTE = 7, 1, 5
_BYTES_PER_FIELD = 100


def _check_count(content: bytes, path: str | Path) -> None:
    """Raise ParseError for a model of too many small parts, before they fill the memory."""
    most = MAX_FIELDS + len(content) // _BYTES_PER_FIELD
    walker = Walker(content, most)
    try:
        for graph in walker.fields(0, len(content), {_GRAPH: (LEN,)}):
            for node in walker.fields(graph.start, graph.end, {_NODE: (LEN,)}):
                for attribute in walker.fields(node.start, node.end, {_ATTRIBUTE: (LEN,)}):
                    for _ in walker.fields(attribute.start, attribute.end):
                        pass
    except Damaged as damage:
        raise ParseError(f"is not an ONNX model, or is damaged: {damage}", str(path)) from None


def _port(value: Any) -> Port:
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return Port(value.name, None)
    sizes = (d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
    return Port(value.name, tuple(e if e is not None and e > 0 else None for e in sizes))


def _graphs(model: Any) -> Iterator[Any]:
    """Yield the graph, those inside its nodes, and the model's functions."""
    waiting = [model.graph, *model.functions]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting += [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]


def _files(graph: Any, path: Path) -> Iterator[Path]:
    """Yield the external files of a graph's tensors, after checking it."""
    tensors = list(getattr(graph, "initializer", ()))  # a function has none
    for sparse in getattr(graph, "sparse_initializer", ()):
        tensors += [sparse.values, sparse.indices]
    for node in graph.node:
        if node.op_type in _ENDLESS:
            raise ParseError(
                f"has a node '{node.name}' of type {node.op_type}, which may never end: such "
                "models are not run",
                str(path),
            )
        for attribute in node.attribute:
            tensors += [attribute.t, *attribute.tensors]
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                tensors += [sparse.values, sparse.indices]
    for tensor in tensors:
        if tensor.data_location == tensor.EXTERNAL:
            yield _external(tensor, path)


def _external(tensor: Any, path: Path) -> Path:
    location = next((e.value for e in tensor.external_data if e.key == "location"), "")
    folder = Path(os.path.realpath(path.parent))
    file = Path(os.path.realpath(folder / location)) if "\0" not in location else folder
    if os.path.isabs(location) or folder not in file.parents or not file.is_file():
        raise ParseError(
            f"its weights '{tensor.name}' are in '{location}', which is not a file in the model's "
            "folder or below it",
            str(path),
        )
    return file


def _check_memory(model: Any, path: str | Path) -> None:
    """Raise ParseError for a model with a value, of known shape, too large for memory."""
    import onnx

    memory = machine_bytes()
    if memory is None:
        return
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # its errors have no common root; ONNX Runtime reports what is wrong
        graph = model.graph
    values = [*graph.input, *graph.value_info, *graph.output]
    shapes = [(v.name, [d.dim_value for d in v.type.tensor_type.shape.dim]) for v in values]
    shapes += [(t.name, list(t.dims)) for t in graph.initializer]
    for name, shape in shapes:
        size = math.prod(max(1, length) for length in shape)
        if size > memory:
            raise ParseError(
                f"its value '{name}' of shape {shape} takes more memory than this machine's "
                f"{memory / 2**30:.1f} GB",
                str(path),
            )


def open_session(path: str | Path, threads: int) -> Any:
    """Return an ``onnxruntime.InferenceSession`` of a model that ``read_ports`` has passed.

    Raises:
        ParseError: ONNX Runtime cannot load it.
        CaffeKDError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime as ort
    except ImportError:
        raise CaffeKDError("needs ONNX Runtime: pip install onnxruntime", str(path)) from None
    options = ort.SessionOptions()
    options.log_severity_level = 4  # its errors come as exceptions as well
    options.intra_op_num_threads = threads
    try:
        return ort.InferenceSession(
            os.fspath(path), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:  # onnxruntime's exceptions have no public root
        raise ParseError(f"ONNX Runtime cannot load it: {error}", str(path)) from None
