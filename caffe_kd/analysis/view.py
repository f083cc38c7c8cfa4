"""A net in one phase, as the checks look at it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..layers import layer_types
from ..net import LayerNode
from ..net.queries import called, is_data
from ..proto import caffe_pb2 as pb
from ..proto.binary import LayerWeights
from .shape_inference import ShapeInference

# They pass a value on: what is found before them holds behind them too.
_PASSING = {"Split", "Reshape", "Flatten", "Dropout"}


@dataclass(eq=False)
class Node:
    """A layer in the net: its message, the layer if it could be built, its neighbours.

    Attributes:
        parents: for each bottom, the node that makes its value; None if none does.
        children: the nodes that take a value of this one.
    """

    proto: Any
    built: LayerNode | None
    parents: list[Node | None] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)

    @property
    def type(self) -> str:
        """The layer's type."""
        return str(self.proto.type)

    @property
    def location(self) -> str:
        """``file:line`` of the layer."""
        return str(self.proto.source_line)

    @property
    def called(self) -> str:
        """The layer's name and type, for a message."""
        return called(self.proto)

    @property
    def is_loss(self) -> bool:
        """Whether the type is one of a loss."""
        kind = layer_types().get(self.type)
        return kind is not None and kind.is_loss

    @property
    def lr_mults(self) -> list[float]:
        """The lr_mult of each blob; of the blobs listed, where the layer could not be built."""
        given = [float(spec.lr_mult) for spec in self.proto.param]
        if self.built is None:
            return given
        blobs = self.built.layer.parameters_in_order
        given += [1.0] * (len(blobs) - len(given))
        learns = [blob.requires_grad for blob in blobs]
        return [m if r or m == 0 else 0.0 for m, r in zip(given, learns, strict=True)]

    @property
    def has_blobs(self) -> bool:
        """Whether the layer is known to have parameters."""
        return bool(self.built is not None and self.built.layer.blob_shapes)

    def ancestors(self, *bottoms: int) -> list[Node]:
        """Return the nodes that lead to the given bottoms, or to all."""
        waiting = [self.parents[i] for i in bottoms] if bottoms else list(self.parents)
        found: dict[int, Node] = {}
        while waiting:
            node = waiting.pop()
            if node is not None and id(node) not in found:
                found[id(node)] = node
                waiting.extend(node.parents)
        return list(found.values())

    def source(self, bottom: int) -> Node | None:
        """Return the node whose values a bottom has, before Split, Reshape, Flatten, Dropout."""
        node = self.parents[bottom] if bottom < len(self.parents) else None
        while node is not None and node.type in _PASSING:
            node = node.parents[0] if node.parents else None
        return node


@dataclass
class View:
    """A net in one phase.

    Attributes:
        param: the net, filtered for the phase.
        phase: TRAIN or TEST.
        file: the file it comes from.
        inference: what could be built of it.
        weights: the files of weights that it starts from, with what they hold.
        solver: the SolverParameter it is trained by, if it is known.
        teachers: the names of the teachers in it.
        is_meant: whether the file distinguishes phases, or a solver asks for this one. A file with
            neither may be for one phase alone.
    """

    param: Any
    phase: int
    file: Path | None
    inference: ShapeInference
    weights: Sequence[tuple[str, list[LayerWeights]]] = ()
    solver: Any = None
    teachers: Sequence[str] = ()
    is_meant: bool = True

    @property
    def is_training(self) -> bool:
        """Whether the net is one of phase TRAIN."""
        return self.phase == pb.TRAIN

    @property
    def phase_name(self) -> str:
        """TRAIN or TEST."""
        return "TRAIN" if self.is_training else "TEST"

    @cached_property
    def nodes(self) -> list[Node]:
        """The layers in their order, joined to their neighbours."""
        makers: dict[str, Node] = {}
        nodes = []
        for proto, built in zip(self.param.layer, self._layer_nodes(), strict=True):
            node = Node(proto, built)
            node.parents = [makers.get(b) for b in proto.bottom if b]
            for parent in node.parents:
                if parent is not None:
                    parent.children.append(node)
            makers.update((top, node) for top in proto.top)
            nodes.append(node)
        return nodes

    def _layer_nodes(self) -> list[LayerNode | None]:
        """Return the LayerNode of each layer, None where it could not be built."""
        built = deque(self.inference.net.nodes if self.inference.net is not None else ())
        return [
            built.popleft()
            if built
            and built[0].layer.name == layer.name
            and list(built[0].layer.proto.top) == list(layer.top)
            else None
            for layer in self.param.layer
        ]

    @cached_property
    def data(self) -> list[Node]:
        """The layers that read data."""
        return [node for node in self.nodes if is_data(node.proto)]

    @cached_property
    def losses(self) -> list[Node]:
        """The layers with a part in the objective."""
        return [node for node in self.nodes if any(self.loss_weights(node))]

    @staticmethod
    def loss_weights(node: Node) -> list[float]:
        """Return the weight of each top in the objective."""
        given = [float(weight) for weight in node.proto.loss_weight]
        if given:
            return given
        return [1.0 if node.is_loss and i == 0 else 0.0 for i in range(len(node.proto.top) or 1)]

    @property
    def learns(self) -> bool:
        """Whether the net is one that is trained: of phase TRAIN, with an objective."""
        return self.is_training and bool(self.losses)

    def has_weights(self, node: Node) -> bool:
        """Return whether a file of weights holds the layer's blobs."""
        return any(w.name == node.proto.name and w.blobs for _, ws in self.weights for w in ws)

    def of_teacher(self, node: Node) -> bool:
        """Return whether a layer belongs to a teacher that the solver names."""
        return any(node.proto.name.startswith(f"{name}/") for name in self.teachers)
