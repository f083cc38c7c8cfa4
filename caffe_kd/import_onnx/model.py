"""An ONNX model that is to become a net: read with care, and probed for shapes and constants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import ParseError, UsageError
from ..layers import Shape
from ..proto.onnx_file import Port, read_ports

MAX_NODES = 1_000_000  # after functions were put in place of their calls
_RANDOM = ("RandomNormal", "RandomUniform", "Multinomial", "Bernoulli")
_OF_SHAPES = ("Shape", "Size")
_OLDEST_OPSET = 7
_PROBED_BATCHES = (2, 3)
Values = Mapping[str, np.ndarray]


@dataclass
class Input:
    """An input of the model: its shape with batch 1 or as given, and whether dim 0 may vary."""

    name: str
    shape: Shape
    varies: bool
    dtype: Any
    most: int  # of whole numbers, the largest that the model takes

    def random(self, batch: int | None, generator: np.random.Generator) -> np.ndarray:
        """Return random values, for another batch if dim 0 varies."""
        shape = (batch, *self.shape[1:]) if batch is not None and self.varies else self.shape
        if np.issubdtype(self.dtype, np.floating):
            return generator.standard_normal(shape, dtype=np.float32).astype(self.dtype)
        return generator.integers(0, self.most + 1, shape).astype(self.dtype)


@dataclass
class Model:
    """A model, and what two runs of it have shown.

    Attributes:
        path: its file.
        proto: the ModelProto, without functions of its own.
        inputs: what it takes.
        shapes: by value, its shape in each run; the runs differ in their batch.
        constants: values that do not depend on the inputs' values, as they were in each run.
    """

    path: Path
    proto: Any
    inputs: list[Input]
    shapes: dict[str, list[Shape]]
    constants: dict[str, list[np.ndarray]]

    def run(self, values: Values, wanted: Sequence[str]) -> list[Any]:
        """Return values of the model, outputs or others, for given inputs.

        Raises:
            ParseError: ONNX Runtime cannot run it.
        """
        return _run(self.proto, self.path, values, wanted)

    def run_other(self, proto: Any, values: Values, wanted: Sequence[str]) -> list[Any]:
        """Return outputs of another model, made of parts of this one."""
        return _run(proto, self.path, values, wanted)


def read_model(path: str | Path, shapes: Mapping[str, Shape]) -> Model:
    """Read a model and run it on random values.

    Args:
        path: the file.
        shapes: shapes of inputs by name; under "" for the first input.

    Raises:
        ParseError: the file is missing, damaged or not an ONNX model, may not be run (see
            ``read_ports``), or ONNX Runtime cannot run it.
        UsageError: an input's shape is needed, or does not fit.
    """
    proto, ports = read_proto(path)
    inputs = _inputs(proto, ports, shapes, path)
    varies = any(given.varies for given in inputs)
    probes = [
        {i.name: i.random(batch, np.random.default_rng(0)) for i in inputs}
        for batch in (_PROBED_BATCHES if varies else (None,))
    ]
    names = [i.name for i in inputs] + [
        name for node in proto.graph.node for name in node.output if name
    ]
    fixed = _fixed(proto)
    model = Model(Path(path), proto, inputs, {}, {})
    for probe in probes:
        made = [name for name in names if name not in probe]
        found = {**probe, **dict(zip(made, model.run(probe, made), strict=True))}
        for name, value in found.items():
            if isinstance(value, np.ndarray):
                model.shapes.setdefault(name, []).append(value.shape)
                if name in fixed:
                    model.constants.setdefault(name, []).append(value)
    from onnx import numpy_helper

    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor)
        model.shapes[tensor.name] = [array.shape] * len(probes)
        model.constants[tensor.name] = [array] * len(probes)
    return model


def read_proto(path: str | Path) -> tuple[Any, list[Port]]:
    """Return a model that may be run, with its own functions inlined, and its inputs."""
    import onnx
    from onnx import inliner

    ports = read_ports(path)
    model = onnx.load(path)
    _check_calls(model, path)
    if model.functions:
        model = inliner.inline_local_functions(model)
    return _modern(model), ports.inputs


def _modern(model: Any) -> Any:
    """Return a model of an opset that ONNX Runtime runs."""
    from onnx import version_converter

    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
    if opset >= _OLDEST_OPSET:
        return model
    try:
        return version_converter.convert_version(model, _OLDEST_OPSET)
    except Exception:  # its C++ part raises more than one kind; ONNX Runtime says what is wrong
        return model


def _check_calls(model: Any, path: str | Path) -> None:
    """Raise ParseError if the model's functions call each other without end, or too often."""
    functions = {(f.domain, f.name): f for f in model.functions}
    within: set[tuple[str, str]] = set()

    @cache
    def size(key: tuple[str, str]) -> int:
        if key in within:
            raise ParseError(f"its function '{key[1]}' calls itself", str(path))
        within.add(key)
        total = sum(count(node) for node in functions[key].node)
        within.discard(key)
        return total

    def count(node: Any) -> int:
        key = (node.domain, node.op_type)
        return size(key) if key in functions else 1

    try:
        total = sum(count(node) for node in model.graph.node)
    except RecursionError:
        raise ParseError("its functions call each other too deeply", str(path)) from None
    if total > MAX_NODES:
        raise ParseError(f"has {total} nodes; at most {MAX_NODES} are read", str(path))


def _inputs(
    proto: Any, ports: Sequence[Port], shapes: Mapping[str, Shape], path: str | Path
) -> list[Input]:
    import onnx

    unknown = set(shapes) - {"", *(port.name for port in ports)}
    if unknown:
        raise UsageError(
            f"-input_shape {min(unknown)}: the model has no such input. It has: "
            + ", ".join(port.name for port in ports)
        )
    kinds = {v.name: v.type.tensor_type.elem_type for v in proto.graph.input}
    most = _largest_indices(proto)
    inputs = []
    for index, port in enumerate(ports):
        given = shapes.get(port.name, shapes.get("") if index == 0 else None)
        try:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kinds[port.name])
        except KeyError:
            raise ParseError(f"its input '{port.name}' is not a tensor", str(path)) from None
        if dtype.kind not in "fiub":
            raise ParseError(f"its input '{port.name}' is of {dtype}, not numbers", str(path))
        shape, varies = _shape_of(port, given)
        inputs.append(Input(port.name, shape, varies, dtype, most.get(port.name, 0)))
    return inputs


def _shape_of(port: Port, given: Shape | None) -> tuple[Shape, bool]:
    """Return an input's shape and whether its first dim may vary."""
    own = port.shape
    if given is not None and own is not None and len(given) == len(own) - 1:
        given = (own[0] or 1, *given)
    if own is None and given is not None:
        return given, True
    sizes = " x ".join("any" if e is None else str(e) for e in own) if own is not None else "any"
    if given is not None and own is not None:
        fits = len(own) == len(given) and all(
            e in (None, g) for e, g in zip(own, given, strict=True)
        )
        if not fits:
            raise UsageError(
                f"-input_shape {port.name}={','.join(map(str, given))}: the model takes {sizes}"
            )
        return given, own[:1] == (None,)
    if own is None or None in own[1:]:
        example = ",".join("1" if e is None else str(e) for e in own or (1, 3, 224, 224))
        raise UsageError(
            f"the model's input '{port.name}' is {sizes}: give its shape, as in "
            f"-input_shape {port.name}={example}"
        )
    return tuple(e or 1 for e in own), own[:1] == (None,)


def _largest_indices(proto: Any) -> dict[str, int]:
    """Return the largest index that a value may be, where it looks up rows of a constant."""
    rows = {tensor.name: tensor.dims[0] for tensor in proto.graph.initializer if tensor.dims}
    largest: dict[str, int] = {}
    for node in reversed(proto.graph.node):
        if node.op_type == "Gather" and node.input[0] in rows:
            limit = rows[node.input[0]] - 1
            largest[node.input[1]] = min(limit, largest.get(node.input[1], limit))
        elif node.op_type in ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"):
            if node.output[0] in largest:
                largest[node.input[0]] = largest[node.output[0]]
    return largest


def _fixed(proto: Any) -> set[str]:
    """Return the values that follow from the weights and from shapes alone."""
    fixed = {tensor.name for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type.startswith(_RANDOM) or any(_has_graph(node)):
            continue
        if node.op_type in _OF_SHAPES or all(name in fixed for name in node.input if name):
            fixed.update(name for name in node.output if name)
    return fixed


def _has_graph(node: Any) -> Iterator[bool]:
    return (attribute.HasField("g") or bool(attribute.graphs) for attribute in node.attribute)


def _run(proto: Any, path: Path, values: Values, wanted: Sequence[str]) -> list[Any]:
    """Run a model with any of its values as outputs."""
    import onnx
    import onnxruntime as ort

    opened = onnx.ModelProto()
    opened.CopyFrom(proto)
    del opened.graph.output[:]
    opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    options = ort.SessionOptions()
    options.log_severity_level = 4  # its errors are raised as exceptions as well
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(
            opened.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        result: list[Any] = session.run(list(wanted), dict(values))
    except Exception as error:  # onnxruntime's exceptions have no public root
        raise ParseError(f"ONNX Runtime cannot run it: {error}", str(path)) from None
    return result
