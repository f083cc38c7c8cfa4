"""A NetParameter as a torch module: names, in-place tops, sharing, loss weights, weights.

The message must be of the current format and hold only the layers of one state; loading.py takes a
file through those steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core.errors import NetError, did_you_mean
from ..layers import Context, Layer, Shape, create
from ..layers.data.input import Input
from ..layers.shared import quantized_layer
from ..proto import caffe_pb2 as pb
from ..proto import foreign, schedule
from ..proto.binary import LayerWeights, read_weights
from ..proto.filter import made_elsewhere
from ..python_layers import user_code
from . import int8
from .weights import Copied, copy_into, round_as_stored

# The name Caffe gives the top of a loss that was left out; there may be several.
AUTOMATIC_TOP = "(automatic)"


@dataclass
class LayerNode:
    """One layer in the net, with its connections."""

    layer: Layer
    bottoms: list[str]
    tops: list[str]
    detached: list[bool]  # bottoms that get no gradient from this layer
    loss_weights: list[float]
    bottom_shapes: list[Shape] = field(default_factory=list)
    top_shapes: list[Shape] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cuts = any(self.detached)


@dataclass
class Param:
    """One learnable blob, at the layer that owns it."""

    layer: Layer
    index: int
    blob: nn.Parameter
    lr_mult: float
    decay_mult: float
    given: set[str] = field(default_factory=set)  # which of the two the prototxt states


class Net(nn.Module):
    """The net that a NetParameter describes.

    Args:
        param: the net in the current format, filtered for one state.
        phase: TRAIN or TEST; a ``state`` in the message overrides it, as in Caffe.
        file: where it was read, for relative paths and messages.
        unfiltered: the net with the layers of all states, for messages.

    Attributes:
        blobs: the blobs of the last forward pass by name, in the order they are first made.
        loss_weights: the weight of each blob in the objective, 0 for most.
        schedules: what changes with the iteration, each under the layer's and its field's name.
        nodes: the layers in their order; ``running`` are those a forward pass runs.
        outputs: names of the blobs no layer takes as bottom, alphabetically, as Caffe logs them.
        params: the learnable blobs at their owners, in Caffe's order, lr_mult 0 included.

    Raises:
        NetError: a layer cannot be built; the message names file, line and layer.

    Source: Caffe's Net.
    """

    def __init__(
        self,
        param: Any,
        phase: int = pb.TEST,
        file: str | Path | None = None,
        unfiltered: Any = None,
    ) -> None:
        super().__init__()
        if not param.layer:
            raise NetError(f"net '{param.name}' has no layers", str(file) if file else None)
        foreign.adopt_blocks(param)
        foreign.check(param, f"net '{param.name}'", NetError)
        self.name: str = param.name
        self.param = param
        self._unfiltered = unfiltered
        self.phase: int = param.state.phase if param.state.HasField("phase") else phase
        self.context = Context(file=Path(file) if file else None)
        self.nodes: list[LayerNode] = []
        self.shapes: dict[str, Shape] = {}
        self.blobs: dict[str, Tensor] = {}
        self.params: list[Param] = []
        self.loss_weights: dict[str, float] = {}
        self.schedules: dict[str, Any] = {}
        self._scheduled: list[tuple[LayerNode, list[float]]] = []  # with the weights as given
        self._owners: dict[str, Param] = {}
        self._unused: set[str] = set()
        self._filled: set[str] = set()  # layers that have got weights from a file
        for proto in param.layer:
            self._add(proto)
        int8.arrange(self.nodes)
        self.set_iteration(0)
        self.layers = nn.ModuleList(node.layer for node in self.nodes)
        self.running = self.nodes
        self.outputs: list[str] = sorted(self._unused)
        self.inputs: list[str] = [
            t for node in self.nodes if isinstance(node.layer, Input) for t in node.tops
        ]

    # ---- building

    def _add(self, proto: Any) -> None:
        layer = create(proto, self.phase, self.context)
        foreign.check(proto, f"layer '{proto.name}' ({proto.type})", NetError)
        bottoms = [b for b in proto.bottom if b]  # `bottom: ""` is no bottom
        shapes = [self._bottom_shape(layer, name, i) for i, name in enumerate(bottoms)]
        tops = list(proto.top)
        if layer.is_loss and not tops:
            tops = [AUTOMATIC_TOP]
        self._check_count(layer, "bottom", len(bottoms), layer.bottoms)
        self._check_count(layer, "top", len(tops), layer.tops)
        if layer.as_many_tops_as_bottoms and len(bottoms) != len(tops):
            layer.fail("it makes one top for each bottom", bottoms=len(bottoms), tops=len(tops))
        with layer.naming("setup"):
            layer.setup(shapes)
        quantized_layer.apply(layer)
        with layer.naming("forward"):
            top_shapes = layer.top_shapes(shapes)
        if len(top_shapes) != len(tops):
            layer.fail(
                "its forward makes a different number of tops", makes=len(top_shapes), tops=tops
            )
        for index, (name, shape) in enumerate(zip(tops, top_shapes, strict=True)):
            self._add_top(layer, name, index, bottoms)
            self.shapes[name] = layer.check_shape(shape, f"top '{name}'")
        self._unused.difference_update(bottoms)
        self._unused.update(proto.top)  # an automatic top is no output
        node = LayerNode(
            layer, bottoms, tops, self._detached(layer, bottoms), [], shapes, top_shapes
        )
        node.loss_weights = self.loss_weights_of(layer, tops)
        self.loss_weights.update(zip(tops, node.loss_weights, strict=True))
        self._add_schedules(node)
        self._add_params(layer)
        self.nodes.append(node)

    def _bottom_shape(self, layer: Layer, name: str, index: int) -> Shape:
        if name not in self.shapes:
            layer.fail(
                f"Unknown bottom blob '{name}' (bottom index {index}): no layer before this one "
                f"makes it{self._elsewhere(name)}.{did_you_mean(name, self.shapes)}"
            )
        return self.shapes[name]

    def _elsewhere(self, blob: str) -> str:
        if self._unfiltered is None:
            return ""
        return made_elsewhere(self._unfiltered, self.param.state, blob)

    @staticmethod
    def _check_count(layer: Layer, what: str, count: int, bounds: tuple[int, int | None]) -> None:
        low, high = bounds
        if low <= count and (high is None or count <= high):
            return
        if high is None:
            wanted = f"at least {low}"
        else:
            wanted = str(low) if low == high else f"{low} to {high}"
        layer.fail(f"takes {wanted} {what} blob(s)", **{f"{what}s": count})

    def _add_top(self, layer: Layer, name: str, index: int, bottoms: list[str]) -> None:
        in_place = index < len(bottoms) and bottoms[index] == name
        if name in self.shapes and not in_place and name != AUTOMATIC_TOP:
            layer.fail(
                f"Top blob '{name}' produced by multiple sources. Give it another name, or name "
                "it as the bottom too to work in place"
            )

    @staticmethod
    def _detached(layer: Layer, bottoms: list[str]) -> list[bool]:
        fact = "propagate_down param must be specified either 0 or bottom_size times"
        given = _given_once_each(layer, "propagate_down", fact, bottoms=bottoms)
        if given:
            return [not flag for flag in given]
        return [i in layer.constant_bottoms for i in range(len(bottoms))]

    @staticmethod
    def loss_weights_of(layer: Layer, tops: list[str]) -> list[float]:
        """Return each top's weight in the objective; not given: 1 for the first of a loss layer."""
        fact = "loss_weight must be unspecified or specified once per top"
        given = _given_once_each(layer, "loss_weight", fact, tops=tops)
        if given:
            return given
        if layer.is_loss and layer.origin == "Caffe" and len(tops) > 1:
            layer.fail(
                "loss_weight must be unspecified or specified once per top blob. A loss has one of "
                "its own, for the first top; with several, write each: loss_weight: 1 "
                "loss_weight: 0",
                tops=len(tops),
            )
        return [1.0 if layer.is_loss and i == 0 else 0.0 for i in range(len(tops))]

    def _add_schedules(self, node: LayerNode) -> None:
        layer = node.layer
        if layer.proto.HasField("loss_weight_schedule"):
            fault = schedule.fault(layer.proto.loss_weight_schedule)
            if fault is None and not any(node.loss_weights):
                fault = "multiplies a loss_weight, but no top has one"
            if fault is not None:
                layer.fail(f"loss_weight_schedule {fault}")
            self._scheduled.append((node, node.loss_weights))
        for message in (layer.proto, layer.settings):
            for f, value in message.ListFields() if message is not None else ():
                if f.message_type is pb.ScheduleParameter.DESCRIPTOR:
                    self.schedules[f"layer '{layer.name}', {f.name}"] = value

    def set_iteration(self, iteration: int) -> None:
        """Set everything that has a schedule to its value in an iteration."""
        self.context.iteration = iteration
        for node, given in self._scheduled:
            factor = schedule.value_at(node.layer.proto.loss_weight_schedule, iteration)
            node.loss_weights = [factor * weight for weight in given]
            self.loss_weights.update(zip(node.tops, node.loss_weights, strict=True))

    def _add_params(self, layer: Layer) -> None:
        specs = list(layer.proto.param)
        blobs = layer.parameters_in_order
        if len(specs) > len(blobs):
            layer.fail("Too many params specified", param=len(specs), blobs=len(blobs))
        for index, blob in enumerate(blobs):
            spec = pb.ParamSpec()
            if index < len(specs):
                spec.CopyFrom(specs[index])
            if layer.proto.frozen:
                spec.lr_mult = spec.decay_mult = 0
            owner = self._owners.get(spec.name) if spec.name else None
            if owner is not None:
                self._share(layer, index, spec, owner)
                continue
            # BatchNorm's statistics need no gradient, whatever lr_mult's default is.
            lr_mult = spec.lr_mult if blob.requires_grad else 0.0
            param = Param(layer, index, blob, lr_mult, spec.decay_mult)
            # Without a gradient, as in Caffe; otherwise clipping would count it.
            blob.requires_grad_(lr_mult != 0)
            param.given = {f for f in ("lr_mult", "decay_mult") if spec.HasField(f)}
            self.params.append(param)
            if spec.name:
                self._owners[spec.name] = param

    def _share(self, layer: Layer, index: int, spec: Any, owner: Param) -> None:
        mine, theirs = layer.blob_shapes[index], owner.layer.blob_shapes[owner.index]
        permissive = spec.share_mode == pb.ParamSpec.PERMISSIVE
        fits = np.prod(mine) == np.prod(theirs) if permissive else mine == theirs
        if not fits:
            layer.fail(
                f"Cannot share param '{spec.name}' owned by layer '{owner.layer.name}': "
                + ("count mismatch" if permissive else "shape mismatch"),
                shape=mine,
                owner_shape=theirs,
            )
        for name in ("lr_mult", "decay_mult"):
            if not spec.HasField(name):
                continue
            here, there = getattr(spec, name), getattr(owner, name)
            if name in owner.given and here != there:
                layer.fail(
                    f"Shared param '{spec.name}' has mismatched {name}", here=here, owner=there
                )
            owner.given.add(name)
            setattr(owner, name, here)
        owner.blob.requires_grad_(owner.lr_mult != 0)
        layer.share_blob(index, owner.blob)

    # ---- running

    def forward(self, inputs: Mapping[str, Tensor] | None = None) -> Tensor | None:
        """Run all layers and return the objective: the sum of loss_weight times top.

        With ``force_backward: true`` in the net the data gets a gradient too: after the
        objective's ``backward()`` it is in ``blobs[name].grad``.

        Args:
            inputs: new values for Input tops.

        Returns:
            A scalar, or None when no top has a loss weight. The blobs are in ``blobs``.
        """
        if inputs:
            self.set_inputs(inputs)
        blobs = self.blobs
        objective: Tensor | None = None
        force = self.param.force_backward and torch.is_grad_enabled()
        try:
            for node in self.running:
                bottoms = [blobs[name] for name in node.bottoms]
                if node.cuts:
                    pairs = zip(bottoms, node.detached, strict=True)
                    bottoms = [b.detach() if d else b for b, d in pairs]
                tops = node.layer(*bottoms)
                if isinstance(tops, Tensor):
                    tops = (tops,)
                if force and not node.bottoms:
                    tops = tuple(
                        t if t.requires_grad else t.detach().requires_grad_() for t in tops
                    )
                for name, top, weight in zip(node.tops, tops, node.loss_weights, strict=True):
                    blobs[name] = top
                    if weight:
                        term = weight * (top if top.dim() == 0 else top.sum())
                        objective = term if objective is None else objective + term
        except Exception as error:  # not Layer.run: a call more for each layer is felt here
            node.layer.raise_named(error, "forward")
        return objective

    def backward(self, objective: Tensor, retain_graph: bool = False) -> None:
        """Run the backward pass from an objective that ``forward`` returned.

        Raises:
            NetError: the code of a user's own layer type fails.
        """
        try:
            objective.backward(retain_graph=retain_graph)  # type: ignore[no-untyped-call]
        except Exception as error:
            files = user_code.files(error)
            for node in self.nodes:
                code = getattr(type(node.layer).forward, "__code__", None)
                if code is not None and code.co_filename in files:
                    with node.layer.naming("backward"):
                        raise
            raise

    def set_inputs(self, inputs: Mapping[str, Tensor]) -> None:
        """Set Input tops by name.

        Raises:
            NetError: the net has no such input.
        """
        for name, value in inputs.items():
            for node in self.nodes:
                if isinstance(node.layer, Input) and name in node.tops:
                    node.layer.set(node.tops.index(name), value)
                    break
            else:
                raise NetError(
                    f"the net has no input '{name}'.{did_you_mean(name, self.inputs)} "
                    f"Inputs: {', '.join(self.inputs) or 'none'}"
                )

    def node_of(self, name: str) -> LayerNode | None:
        """Return the first node whose layer has this name, or None."""
        return next((node for node in self.nodes if node.layer.name == name), None)

    def to_device(self, device: torch.device, channels_last: bool) -> None:
        """Move the net to a device, and lay out 4-D blobs NHWC or NCHW in memory.

        Only the parameters need it: a convolution follows the layout of its weight.
        """
        self.context.device = device
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.to(device=device)
        # A blob that one layer uses under another shape is a view, which needs contiguous memory.
        viewed = {
            id(blob)
            for node in self.nodes
            for blob, shape in zip(
                node.layer.parameters_in_order, node.layer.blob_shapes, strict=True
            )
            if blob.shape != shape
        }
        for param in self.params:
            if param.blob.dim() == 4 and id(param.blob) not in viewed:
                # Not contiguous(): it leaves a one-channel weight's strides as they are, since
                # either order fits its memory, but a convolution goes by the strides.
                param.blob.data = param.blob.data.to(memory_format=layout)

    # ---- weights

    def weights(self) -> dict[str, list[np.ndarray]]:
        """Return copies of all layers' blobs by layer name, in Caffe's axis order."""
        return {
            node.layer.name: [
                b.detach().cpu().contiguous().numpy().copy() for b in node.layer.blobs
            ]
            for node in self.nodes
            if node.layer.blobs
        }

    def load_weights(self, path: str | Path) -> Copied:
        """Copy weights from a file into the layers of the same name.

        In phase TEST layers also round their values as the file says, if it is of a quantised net.

        Returns:
            Which layers got weights, and which of the file this net lacks.

        Raises:
            WeightsError: a layer's blobs differ in number or shape.
            ParseError: the file is not a caffemodel.
        """
        layers = read_weights(path)
        copied = self.copy_weights(layers, str(path))
        if self.phase == pb.TEST:
            copied.rounded = round_as_stored(self, layers)
        return copied

    def copy_weights(self, layers: Iterable[LayerWeights], source: str) -> Copied:
        """Copy weights into the layers of the same name; see ``load_weights``."""
        wanted = [node.layer.name for node in self.nodes if node.layer.blobs]
        copied = Copied(source, self.name, wanted)
        for weights in layers:
            node = self.node_of(weights.name)
            if node is not None:
                owned = {p.index for p in self.params if p.layer is node.layer}
                copy_into(node.layer, owned, weights, source)
            if weights.blobs:
                (copied.unused if node is None else copied.filled).append(weights.name)
            if node is None:
                copied.ignored.append(weights.name)
        self._filled.update(copied.filled)
        return copied

    def without_weights(self) -> list[str]:
        """Return the names of layers whose parameters no file has given."""
        layers = [node.layer for node in self.nodes]
        filled = {
            id(blob)
            for layer in layers
            if layer.name in self._filled
            for blob in layer.parameters_in_order
        }
        return [
            layer.name
            for layer in layers
            if any(id(blob) not in filled for blob in layer.parameters_in_order)
        ]

    def share_weights(self, other: Net) -> None:
        """Use the parameter blobs of another net's layers of the same name, as a test net does.

        Raises:
            NetError: a shared layer's blobs differ in shape.

        Source: Caffe's Net::ShareTrainedLayersWith.
        """
        for theirs in other.nodes:
            mine = self.node_of(theirs.layer.name)
            if mine is None:
                continue
            blobs = theirs.layer.parameters_in_order
            for index, shape in enumerate(mine.layer.blob_shapes):
                if index >= len(blobs) or shape != theirs.layer.blob_shapes[index]:
                    mine.layer.fail(
                        f"Cannot share param {index} weights with the train net's layer: "
                        "shape mismatch",
                        here=mine.layer.blob_shapes,
                        train_net=theirs.layer.blob_shapes,
                    )
                mine.layer.share_blob(index, blobs[index])
        for param in self.params:
            param.blob = param.layer.parameters_in_order[param.index]


def _given_once_each(layer: Layer, field: str, fact: str, **blobs: list[str]) -> list[Any]:
    """Return a layer's repeated field, which has no entry or one for each blob of a side."""
    given = list(getattr(layer.proto, field))
    ((side, names),) = blobs.items()
    if given and len(given) != len(names):
        layer.fail(fact, **{field: len(given), side: len(names)})
    return given
