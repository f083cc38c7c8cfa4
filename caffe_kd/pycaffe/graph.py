"""Runs a net layer by layer, so that passes may start and end anywhere and see every edit.

Each layer has a small graph of its own, from detached copies of its bottoms to its tops. A backward
pass goes through these graphs one by one and reads each blob's ``diff`` between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from ..core.errors import NetError, did_you_mean
from ..layers.base import Shape
from ..layers.data.dummy_data import DummyData
from ..layers.data.input import Input
from ..layers.utility.python import Python
from ..net import AUTOMATIC_TOP
from ..net import Net as CoreNet
from .blob import Blob, ParameterBlob, parameter_storage
from .nodes import Node, NodeList, Tape
from .storage import Storage

Hook = Callable[[int], object]


class Graph:
    """The blobs of a net with its splits, and passes over them.

    Attributes:
        net: the core net; its layers and parameters are used as they are.
        nodes: the layers in their order, splits included.
        names: the name of each blob in ``blobs``.
        param_diffs: the gradient of each of the net's parameters.
        param: the NetParameter with the splits.
    """

    def __init__(self, net: CoreNet) -> None:
        laid_out = NodeList(net)
        self.net = net
        self.nodes = laid_out.nodes
        self.names = laid_out.names
        self.param = laid_out.param
        self.device = net.context.device
        self.blobs: list[Blob] = []
        self._last_source: dict[int, Tensor] = {}  # what a data layer returned last, by blob
        for node in self.nodes:
            self._add_blobs(node)
        self.param_diffs = [Storage(p.blob.numel(), self.device) for p in net.params]
        self.before_forward: list[Hook] = []
        self.after_forward: list[Hook] = []
        self.before_backward: list[Hook] = []
        self.after_backward: list[Hook] = []
        # Only the last blob of a name is the one that the core net has under that name.
        self.by_name = {name: index for index, name in enumerate(self.names)}

    def _add_blobs(self, node: Node) -> None:
        shapes = self._top_shapes(node)
        weights = node.weights_in(self.net.context.iteration)
        for top, shape, weight in zip(node.tops, shapes, weights, strict=True):
            if top < len(self.blobs):
                continue  # in place
            blob = Blob.empty(shape, self.device)
            if node.is_view:
                bottom = self.blobs[node.bottoms[0]]
                blob._data = bottom._data
                blob._diff = bottom._diff if node.shares_diff else blob._diff
            if weight:
                blob._diff.fill = weight
            self.blobs.append(blob)
        if isinstance(node.layer, DummyData):  # filled from the start, as in Caffe
            for top, value in zip(node.tops, node.layer.values, strict=True):
                self._last_source[top] = value
                self.blobs[top]._data.set(value, aliased=True)

    def _top_shapes(self, node: Node) -> list[Shape]:
        bottoms = [self.blobs[b].shape for b in node.bottoms]
        if node.layer is None:
            return bottoms * len(node.tops)
        return [tuple(s) for s in node.layer.top_shapes(bottoms)]

    def parameter_blobs(self, node: Node) -> list[Blob]:
        """Return a layer's parameter blobs."""
        if node.layer is None:
            return []
        triples = zip(
            node.layer.parameters_in_order, node.layer.blob_shapes, node.params, strict=True
        )
        return [
            ParameterBlob(shape, parameter_storage(p), self.param_diffs[owner])
            for p, shape, owner in triples
        ]

    @property
    def has_hooks(self) -> bool:
        """Whether there are hooks to be called."""
        hooks = (self.before_forward, self.after_forward, self.before_backward, self.after_backward)
        return any(hooks)

    def reshape(self) -> None:
        """Infer all shapes from those of the first blobs."""
        for node in self.nodes:
            if node.bottoms:
                for top, shape in zip(node.tops, self._top_shapes(node), strict=True):
                    self._shape_top(node, top, shape)

    def _shape_top(self, node: Node, top: int, shape: Shape) -> None:
        blob = self.blobs[top]
        if node.layer is not None:
            node.layer.check_shape(shape, f"top '{self.names[top]}'")
        blob.take_shape(shape)

    def loss_weights(self) -> list[float]:
        """Return the weight of each blob in the loss, in the solver's iteration."""
        weights = [0.0] * len(self.blobs)
        for node in self.nodes:
            for top, weight in zip(
                node.tops, node.weights_in(self.net.context.iteration), strict=True
            ):
                weights[top] = weight
        return weights

    def apply_schedules(self) -> None:
        """Set the diffs of losses to their scheduled weights in the solver's iteration."""
        for node in self.nodes:
            if node.schedule is not None:
                weights = node.weights_in(self.net.context.iteration)
                for top, given, weight in zip(node.tops, node.loss_weights, weights, strict=True):
                    if given:
                        self.blobs[top]._diff.set_all(weight)

    def outputs(self) -> list[str]:
        """Return the names of the blobs that no later layer consumes, in alphabetical order."""
        left: set[str] = set()
        for node in self.nodes:
            left.difference_update(self.names[b] for b in node.bottoms)
            left.update(self.names[t] for t in node.tops)
        return sorted(left - {AUTOMATIC_TOP})

    # ---- forward

    def forward(self, start: int, end: int) -> float:
        """Run the layers from ``start`` to ``end``, both included; return their share of the loss.

        The loss is each such top's values times its diff, which holds the loss weight.
        """
        loss = 0.0
        for index in range(start, end + 1):
            for hook in self.before_forward:
                hook(index)
            node = self.nodes[index]
            self._forward(node)
            for top, weight in zip(node.tops, node.loss_weights, strict=True):
                if weight:
                    diff = self.blobs[top]._diff.tensor(self.blobs[top].shape)
                    loss += float((self._values(top) * diff).sum())
            for hook in self.after_forward:
                hook(index)
        return loss

    def _forward(self, node: Node) -> None:
        if node.is_view:
            for top, shape in zip(node.tops, self._top_shapes(node), strict=True):
                self._shape_top(node, top, shape)
            # A view is run only where a hook of torch's watches it, as for debug_info.
            watched = node.layer is not None and node.layer._forward_hooks
            node.tape = self._compute(node)[2] if watched else None
            return
        if isinstance(node.layer, Input):  # its blobs hold what the user wrote to them
            self._give_input(node)
            node.layer()  # for the sake of its hooks
            return
        node.tape = None  # frees the memory of the last pass
        bottoms, tops, tape = self._compute(node)
        for top, value in zip(node.tops, tops, strict=True):
            if node.bottoms:
                aliases = any(_same_memory(value, b) for b in bottoms)
                in_place = top in node.bottoms
                self._set(top, value.detach().clone() if aliases and not in_place else value)
            elif self._last_source.get(top) is not value:  # a constant is set only once
                self._last_source[top] = value
                self._set(top, value, aliased=True)
        for parameter in node.layer.parameters_in_order if node.layer else ():
            parameter_storage(parameter).push()  # BatchNorm's change in a forward pass
        node.tape = tape

    def _set(self, top: int, value: Tensor, aliased: bool = False) -> None:
        blob = self.blobs[top]
        blob._diff.resize(tuple(value.shape))
        blob._shape = tuple(value.shape)
        blob._data.set(value, aliased)

    def _compute(self, node: Node) -> tuple[list[Tensor], list[Tensor], Tape | None]:
        layer = node.layer
        assert layer is not None
        bottoms = []
        for bottom, needed in zip(node.bottoms, node.needs, strict=True):
            value = self._values(bottom)
            if bottom in node.tops and self.blobs[bottom]._data.is_shared_memory:
                value = value.clone()  # the top is about to reuse its memory
            bottoms.append(value.requires_grad_(needed))
        for parameter in layer.parameters_in_order:
            parameter_storage(parameter).pull()
        with torch.set_grad_enabled(node.needs_backward):
            tops = list(layer.run(*bottoms))
        if not node.needs_backward:
            return bottoms, tops, None
        versions = [(p, p._version) for p in layer.parameters_in_order]
        return bottoms, tops, Tape(bottoms, tops, versions)

    # ---- backward

    def backward(self, start: int, end: int) -> None:
        """Run backward from layer ``start`` to ``end``, both included, from the tops' diffs."""
        for index in range(start, end - 1, -1):
            for hook in self.before_backward:
                hook(index)
            node = self.nodes[index]
            if node.needs_backward:
                if node.layer is not None and self.net.param.force_backward:
                    node.layer.check_backward()
                self._backward(node)
            for hook in self.after_backward:
                hook(index)

    def _backward(self, node: Node) -> None:
        if node.is_view:
            if node.tape is not None:
                (view,) = node.tape.tops
                diff = self.blobs[node.tops[0]]._diff.tensor(tuple(view.shape))
                torch.autograd.grad(view, node.tape.bottoms, diff)
                node.tape = None
            if not node.shares_diff and node.needs[0]:
                self._add_up(node)
            return
        if node.layer is None or not (node.bottoms or node.params):
            return
        tape = node.tape
        shapes = [self.blobs[b].shape for b in node.bottoms]
        if tape is None or not tape.is_of(node.layer, shapes):
            _, _, tape = self._compute(node)
            node.tape = tape
            assert tape is not None
        self._sync_edits(node, tape)
        pairs = [
            (value, self.blobs[top]._diff.tensor(tuple(value.shape)))
            for value, top in zip(tape.tops, node.tops, strict=True)
            if value.requires_grad
        ]
        parameters = [p for p, _ in tape.parameters if p.requires_grad]
        sources = [b for b in tape.bottoms if b.requires_grad] + parameters
        grads: list[Tensor | None] = [None] * len(sources)
        if pairs and sources:
            values, given = zip(*pairs, strict=True)
            with node.layer.naming("backward"), self._known_gradients(node, tape):
                grads = list(
                    torch.autograd.grad(
                        values, sources, given, retain_graph=True, allow_unused=True
                    )
                )
        self._take_gradients(node, tape, grads, [g for _, g in pairs])

    @contextmanager
    def _known_gradients(self, node: Node, tape: Tape) -> Iterator[None]:
        """Give a user's layer the accumulated gradients, which it may add to or replace."""
        if not isinstance(node.layer, Python):
            yield
            return
        for (parameter, _), owner in zip(tape.parameters, node.params, strict=True):
            parameter.grad = self.param_diffs[owner].tensor(tuple(parameter.shape))
        try:
            yield
        finally:
            for parameter, _ in tape.parameters:
                parameter.grad = None

    def _sync_edits(self, node: Node, tape: Tape) -> None:
        """Copy what was written to a layer's blobs since the forward pass into its graph."""
        for top in node.tops:
            self.blobs[top]._data.pull()
        for number, value in zip(node.bottoms, tape.bottoms, strict=True):
            data = self.blobs[number]._data
            if data.is_pinned and number not in node.tops:
                now = data.tensor(tuple(value.shape))
                if now.data_ptr() != value.data_ptr():
                    value.data.copy_(now)

    def _take_gradients(
        self, node: Node, tape: Tape, grads: list[Tensor | None], given: list[Tensor]
    ) -> None:
        taken = {g.untyped_storage().data_ptr() for g in given}
        results = iter(grads)
        for bottom, value in zip(node.bottoms, tape.bottoms, strict=True):
            if value.requires_grad:
                grad = next(results)
                own = torch.zeros_like(value) if grad is None else _own(grad, taken)
                self.blobs[bottom]._diff.set(own.detach())
        for (parameter, _), owner in zip(tape.parameters, node.params, strict=True):
            if parameter.requires_grad:
                grad = next(results)
                if grad is not None:
                    self.param_diffs[owner].add(grad)

    def _add_up(self, node: Node) -> None:
        """Give a Split's bottom the sum of its tops' gradients."""
        bottom = self.blobs[node.bottoms[0]]
        diffs = [self.blobs[t]._diff.tensor(bottom.shape) for t in node.tops]
        total = diffs[0].clone()
        for diff in diffs[1:]:
            total += diff
        bottom._diff.set(total)

    def visit_all(self) -> None:
        """Make backward passes visit all layers with trainable parameters, even without a loss.

        This is what Caffe's ``time`` measures: bottoms get gradients only where a loss needs them.
        """
        for node in self.nodes:
            learns = any(self.net.params[i].blob.requires_grad for i in node.params)
            node.needs_backward = node.needs_backward or learns

    def clear_param_diffs(self) -> None:
        """Set the parameters' gradients to 0."""
        for diff in self.param_diffs:
            diff.set_all(0.0)

    # ---- beside the solver's loop, which runs the core net

    def pull_weights(self) -> None:
        """Copy what was written to parameters into the core net."""
        for param in self.net.params:
            parameter_storage(param.blob).pull()

    def push_weights(self) -> None:
        """Copy parameters that the core net has changed into the arrays."""
        for param in self.net.params:
            parameter_storage(param.blob).push()

    def give_inputs(self) -> None:
        """Copy what was written to blobs that no layer computes into the core net."""
        for node in self.nodes:
            if isinstance(node.layer, Input):
                self._give_input(node)
            elif isinstance(node.layer, DummyData):
                for index, top in enumerate(node.tops):
                    if (
                        self._last_source[top] is node.layer.values[index]
                    ):  # a constant, may be edited
                        self._last_source[top] = node.layer.values[index] = self._values(top)

    def _give_input(self, node: Node) -> None:
        assert isinstance(node.layer, Input)
        for index, top in enumerate(node.tops):
            node.layer.set(index, self._values(top))

    def give_blobs(self) -> None:
        """Give the core net the values of the blobs, as if it had run itself."""
        for name in self.net.shapes:
            self.net.blobs[name] = self._values(self.by_name[name])

    def release_blobs(self) -> None:
        """Release what ``take_blobs`` showed, so that the next iteration can use the memory."""
        for blob in self.blobs:
            blob._data.release()
            blob._diff.release()

    def take_blobs(self, diffs: Mapping[int, Tensor] | None = None) -> None:
        """Show the blobs that the core net has computed, and gradients that were kept."""
        for name, value in self.net.blobs.items():
            top = self.by_name[name]
            if not self.blobs[top]._data.holds(value):
                self._set(top, value, aliased=True)
            if value.is_leaf and value.grad is not None:  # data, with force_backward
                self.blobs[top]._diff.set(value.grad, aliased=True)
        for node in self.nodes:
            node.tape = None
            if node.is_view:  # in shared memory, but each with its own shape
                for top, shape in zip(node.tops, self._top_shapes(node), strict=True):
                    self.blobs[top].take_shape(shape)
        for number, diff in (diffs or {}).items():
            self.blobs[number]._diff.set(diff, aliased=True)

    def _values(self, number: int) -> Tensor:
        blob = self.blobs[number]
        return blob._data.tensor(blob.shape)

    def index_of(self, layer: str) -> int:
        """Return the index of the first layer with a name.

        Raises:
            NetError: there is none.
        """
        for index, node in enumerate(self.nodes):
            if node.name == layer:
                return index
        known = [p.name for p in self.nodes]
        raise NetError(f"the net has no layer '{layer}'.{did_you_mean(layer, known)}")


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def _own(grad: Tensor, taken: set[int]) -> Tensor:
    """Return a gradient in memory of its own: autograd may return one tensor for several inputs."""
    memory = grad.untyped_storage().data_ptr()
    expanded = grad.numel() * grad.element_size() > grad.untyped_storage().nbytes()
    if memory in taken or expanded:
        grad = grad.clone(memory_format=torch.contiguous_format)
        memory = grad.untyped_storage().data_ptr()
    taken.add(memory)
    return grad
