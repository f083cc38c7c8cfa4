"""The net while it is made: layers, their blobs, and the shape of each value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..core.errors import NetError, printable_name
from ..layers import Context, Shape, create
from ..proto import caffe_pb2 as pb
from .model import Model

_LONGEST_NAME = 1000


class CannotBeMeant(Exception):
    """A node has no layers that compute the same; the message says why, and what to do."""


class Node:
    """A node of the model, with its attributes and what is known of its inputs."""

    def __init__(self, proto: Any, draft: Draft) -> None:
        from onnx import helper

        self.op: str = proto.op_type
        self.domain: str = proto.domain
        self.inputs = list(proto.input)
        self.outputs = list(proto.output)
        self.name: str = proto.name or (self.outputs[0] if self.outputs else proto.op_type)
        self._attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
        self._draft = draft

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, text as str."""
        value = self._attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def has(self, index: int) -> bool:
        """Return whether an optional input is given."""
        return index < len(self.inputs) and bool(self.inputs[index])

    def blob(self, index: int = 0) -> str:
        """Return the blob of an input."""
        return self._draft.blob(self.inputs[index])

    def constant(self, index: int) -> np.ndarray | None:
        """Return an input that does not depend on the data; None if it does, or on the batch."""
        values = self.constants(index)
        if values is None or any(not np.array_equal(v, values[0]) for v in values):
            return None
        return values[0]

    def constants(self, index: int) -> list[np.ndarray] | None:
        """Return an input that does not depend on the data, as it was in each run."""
        return self._draft.model.constants.get(self.inputs[index]) if self.has(index) else None

    def weight(self, index: int) -> np.ndarray:
        """Return a constant input as float32."""
        value = self.constant(index)
        if value is None:
            raise CannotBeMeant(
                f"its input '{self.inputs[index]}' is computed from the data, where the layer has "
                "weights"
            )
        return np.asarray(value, np.float32)

    def numbers(self, name: str, index: int) -> list[int] | None:
        """Return an attribute that later opsets have as a constant input; None if not given."""
        value = self.get(name)
        if value is None and self.has(index):
            constant = self.constant(index)
            if constant is None:
                raise CannotBeMeant(f"its {name} is computed from the data")
            value = constant.reshape(-1).tolist()
        if value is None:
            return None
        return [int(v) for v in (value if isinstance(value, list | tuple) else [value])]

    def number(self, name: str, index: int, default: float | None) -> float | None:
        """Return a single number given as an attribute or as a constant input."""
        value = self.get(name)
        if value is None and self.has(index):
            value = float(self.weight(index).reshape(-1)[0])
        return default if value is None else float(value)

    def shapes(self, index: int = 0) -> list[Shape]:
        """Return an input's shape in each run."""
        return self._draft.model.shapes[self.inputs[index]]

    def shape(self, index: int = 0) -> Shape:
        """Return an input's shape in the first run."""
        return self.shapes(index)[0]

    def made(self, index: int = 0) -> list[Shape]:
        """Return an output's shape in each run."""
        return self._draft.model.shapes[self.outputs[index]]

    def axis(self, default: int, index: int = 0) -> int:
        """Return the attribute ``axis``, counted from the front."""
        axis = int(self.get("axis", default))
        return axis + len(self.shape(index)) if axis < 0 else axis

    def need(self, condition: bool, fact: str) -> None:
        """Raise CannotBeMeant with a fact unless a condition holds."""
        if not condition:
            raise CannotBeMeant(fact)

    def unused(self, *indices: int) -> None:
        """Raise CannotBeMeant if the model uses one of these outputs."""
        for index in indices:
            if index < len(self.outputs) and self._draft.readers(self.outputs[index]):
                raise CannotBeMeant(f"its output '{self.outputs[index]}' is used, too")


class Draft:
    """A net that grows node by node.

    Attributes:
        model: the model it is made from.
        for_caffe: whether only BVLC Caffe's types may be used.
        layers: the layers, as messages.
        weights: their blobs by layer name.
        names: the blob of each value of the model that has one.
        shapes: by blob, its shape in each of the model's runs.
    """

    def __init__(self, model: Model, for_caffe: bool = False) -> None:
        self.model = model
        self.for_caffe = for_caffe
        self.layers: list[Any] = []
        self.weights: dict[str, list[np.ndarray]] = {}
        self.names: dict[str, str] = {}
        self.shapes: dict[str, list[Shape]] = {}
        self.done: set[int] = set()  # nodes that earlier ones have taken with them
        # Pads of zeros that the convolutions behind them do: by output, the bottom and the pads.
        self.put_off: dict[str, tuple[str, list[int]]] = {}
        self.opset = max(
            (o.version for o in model.proto.opset_import if o.domain in ("", "ai.onnx")), default=1
        )
        self.kinds = {given.name: given.dtype.kind for given in model.inputs}
        self._layer_names: set[str] = set()
        self._blob_names = set(model.shapes)
        self._pending: list[tuple[Any, str, list[np.ndarray]]] = []
        self._count = 0
        self.nodes = [Node(proto, self) for proto in model.proto.graph.node]
        self._readers: dict[str, list[int]] = {}
        for index, node in enumerate(self.nodes):
            for name in node.inputs:
                self._readers.setdefault(name, []).append(index)
        self.outputs = {value.name for value in model.proto.graph.output}

    # ---- the model

    def readers(self, value: str) -> list[Node | None]:
        """Return the nodes that read a value; None stands for the model's output."""
        found: list[Node | None] = [self.nodes[i] for i in self._readers.get(value, [])]
        return [*found, None] if value in self.outputs else found

    def only_reader(self, value: str, *ops: str) -> Node | None:
        """Return the node that alone reads a value if it is of one of these types."""
        found = self.readers(value)
        one = found[0] if len(found) == 1 else None
        return one if one is not None and one.op in ops else None

    def maker(self, value: str) -> Node | None:
        """Return the node that makes a value."""
        return next((node for node in self.nodes if value in node.outputs), None)

    def take_with(self, node: Node) -> None:
        """Mark a later node as converted."""
        self.done.add(self.nodes.index(node))

    def blob(self, value: str) -> str:
        """Return the blob of a value; a constant one is put out by a layer of its own."""
        if value in self.names:
            return self.names[value]
        values = self.model.constants.get(value)
        if values is None:
            raise CannotBeMeant(f"its input '{value}' is not a tensor")
        if any(not np.array_equal(v, values[0]) for v in values):
            raise CannotBeMeant(f"'{value}' is a constant that grows with the batch")
        array = np.asarray(values[0], np.float32)
        if not array.ndim or not array.size:
            raise CannotBeMeant(f"'{value}' is a constant number, where a blob is needed")
        return self.layer(
            "Parameter", [], blobs=[array], parameter_param={"shape": {"dim": array.shape}}
        )

    # ---- the net

    def input(self, name: str, shape: Shape, shapes: list[Shape]) -> None:
        """Add an input of the net."""
        layer = pb.LayerParameter(
            name=self._unique(name, self._layer_names),
            type="Input",
            top=[_clean(name)],
            input_param={"shape": [{"dim": shape}]},
        )
        self.layers.append(layer)
        self.names[name] = layer.top[0]
        self.shapes[layer.top[0]] = shapes

    def layer(
        self,
        kind: str,
        bottoms: str | Sequence[str],
        *,
        blobs: Sequence[np.ndarray] = (),
        suffix: str = "",
        frozen: bool = False,
        **settings: Any,
    ) -> str:
        """Add a layer with one top and return that blob; see ``layer_of_tops``."""
        (top,) = self.layer_of_tops(
            kind, bottoms, 1, blobs=blobs, suffix=suffix, frozen=frozen, **settings
        )
        return top

    def layer_of_tops(
        self,
        kind: str,
        bottoms: str | Sequence[str],
        tops: int,
        *,
        blobs: Sequence[np.ndarray] = (),
        suffix: str = "",
        frozen: bool = False,
        **settings: Any,
    ) -> list[str]:
        """Add a layer and return its tops, whose final names ``finish`` gives.

        Args:
            kind: the layer's type.
            bottoms: its bottoms.
            tops: how many tops it has.
            blobs: its weights.
            suffix: what distinguishes it among the layers of its node; by default its type.
            frozen: whether its weights stay as they are in training.
            settings: its blocks, as ``pooling_param={"pool": "MAX"}``.

        Raises:
            CannotBeMeant: the layer cannot take these settings or bottoms.
        """
        bottoms = [bottoms] if isinstance(bottoms, str) else list(bottoms)
        made = []
        for _ in range(tops):
            made.append(f"\0{self._count}")
            self._count += 1
        proto = pb.LayerParameter(name="layer", type=kind, bottom=bottoms, top=made, **settings)
        if frozen:
            proto.param.extend(pb.ParamSpec(lr_mult=0, decay_mult=0) for _ in blobs)
        arrays = [np.array(blob, np.float32, order="C") for blob in blobs]
        self._measure(proto, arrays)
        self._pending.append((proto, suffix or kind.lower(), arrays))
        return made

    def _measure(self, proto: Any, arrays: list[np.ndarray]) -> None:
        """Note the shapes of a layer's tops, which the layer itself computes."""
        of_bottoms = [self.shapes[bottom] for bottom in proto.bottom]
        runs = list(zip(*of_bottoms, strict=True)) if of_bottoms else [()] * self.runs
        try:
            layer = create(proto, pb.TEST, Context())
            layer.setup(list(runs[0]))
            tops = [layer.top_shapes(list(run)) for run in runs]
        except NetError as error:
            reason = error.message.removeprefix(f"layer 'layer' ({proto.type}): ")
            raise CannotBeMeant(f"{proto.type} cannot compute it: {reason}") from error
        shapes = [tuple(blob.shape) for blob in arrays]
        if shapes != layer.blob_shapes:
            raise CannotBeMeant(
                f"its weights of shapes {shapes} do not fit {proto.type}, which has "
                f"{layer.blob_shapes}"
            )
        for index, name in enumerate(proto.top):
            self.shapes[name] = [tuple(run[index]) for run in tops]

    @property
    def runs(self) -> int:
        """How many runs the model has had."""
        return max((len(shapes) for shapes in self.model.shapes.values()), default=1)

    def each(self, blob: str, change: Callable[[Shape], Shape]) -> list[Shape]:
        """Return a blob's shape in each run, changed."""
        return [tuple(change(shape)) for shape in self.shapes[blob]]

    def shape(self, blob: str) -> Shape:
        """Return a blob's shape in the first run."""
        return self.shapes[blob][0]

    def finish(self, node: Node, results: Sequence[str], outputs: Sequence[str]) -> None:
        """Name the layers of a node: their tops that are its outputs get the outputs' names."""
        names = self._result_names(results, outputs)
        main = next((i for i, p in enumerate(self._pending) if p[2] and not p[0].param), -1)
        for index, (proto, suffix, arrays) in enumerate(self._pending):
            is_main = index == main % len(self._pending)
            name = node.name if is_main else f"{node.name}/{suffix}"
            proto.name = self._unique(name, self._layer_names)
            for top in proto.top:
                if top not in names:
                    names[top] = self._unique(f"{node.name}/{suffix}", self._blob_names)
            proto.top[:] = [names[top] for top in proto.top]
            proto.bottom[:] = [names.get(bottom, bottom) for bottom in proto.bottom]
            self.layers.append(proto)
            if arrays:
                self.weights[proto.name] = arrays
        for old, new in names.items():
            self.shapes[new] = self.shapes.pop(old)
        self._pending = []

    def _result_names(self, results: Sequence[str], outputs: Sequence[str]) -> dict[str, str]:
        """Note which blobs are a node's outputs; return the names of those it has made."""
        names: dict[str, str] = {}
        made = set(self.pending_tops())
        for value, blob in zip(outputs, results, strict=False):
            if not value:
                continue
            if value in self.outputs and (blob not in made or blob in names):
                blob = self.layer("Split", blob)  # a blob of the output's own name
                made.add(blob)
            if blob in made and blob not in names:
                names[blob] = self._value_name(value)
            self.names[value] = names.get(blob, blob)
        return names

    def pending_types(self) -> list[str]:
        """Return the types of the layers of the node that is being converted."""
        return [proto.type for proto, _, _ in self._pending]

    def pending_tops(self) -> list[str]:
        """Return the tops of these layers."""
        return [top for proto, _, _ in self._pending for top in proto.top]

    def give_up(self, node: Node) -> None:
        """Drop the layers of a node that cannot be converted, and go on as if it had some."""
        self._pending = []
        for value in node.outputs:
            if value in self.model.shapes:
                self.names[value] = value
                self.shapes[value] = self.model.shapes[value]

    def _value_name(self, value: str) -> str:
        name = _clean(value)
        return name if name == value else self._unique(name, self._blob_names)

    @staticmethod
    def _unique(name: str, taken: set[str]) -> str:
        wanted = name = _clean(name)
        count = 1
        while name in taken:
            count += 1
            name = f"{wanted}_{count}"
        taken.add(name)
        return name


def _clean(name: str) -> str:
    return printable_name(name)[:_LONGEST_NAME]
