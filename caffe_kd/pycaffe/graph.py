"""Runs a net layer by layer, so that passes may begin and end anywhere and see every change.

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
from ..net import AUTOMATIC_TOP, check_backward
from ..net import Net as CoreNet
from .blob import Blob, ParameterBlob, parameter_storage
from .places import Place, Places, Record
from .storage import Storage

Hook = Callable[[int], object]


class Graph:
    """The blobs of a net with its splits, and passes over them.

    Attributes:
        net: the net underneath; layers and parameters are its own.
        places: the layers in their order, splits included.
        names: the name of each blob in ``blobs``.
        param_diffs: the gradient of each of the net's parameters.
        param: the NetParameter with the splits.
    """

    def __init__(self, net: CoreNet) -> None:
        laid_out = Places(net)
        self.net = net
        self.places = laid_out.places
        self.names = laid_out.names
        self.param = laid_out.param
        self.device = net.context.device
        self.blobs: list[Blob] = []
        self._fresh: dict[int, Tensor] = {}  # what a data layer gave last, by blob
        for place in self.places:
            self._add_blobs(place)
        self.param_diffs = [Storage(p.blob.numel(), self.device) for p in net.params]
        self.before_forward: list[Hook] = []
        self.after_forward: list[Hook] = []
        self.before_backward: list[Hook] = []
        self.after_backward: list[Hook] = []
        # Only the last blob of a name is the one that the net below has under that name.
        self.by_name = {name: index for index, name in enumerate(self.names)}

    def _add_blobs(self, place: Place) -> None:
        shapes = self._top_shapes(place)
        weights = place.weights_in(self.net.context.iteration)
        for top, shape, weight in zip(place.tops, shapes, weights, strict=True):
            if top < len(self.blobs):
                continue  # in place
            blob = Blob.empty(shape, self.device)
            if place.is_view:
                bottom = self.blobs[place.bottoms[0]]
                blob._data = bottom._data
                blob._diff = bottom._diff if place.shares_diff else blob._diff
            if weight:
                blob._diff.fill = weight
            self.blobs.append(blob)
        if isinstance(place.layer, DummyData):  # filled from the start, as in the original
            for top, value in zip(place.tops, place.layer.values, strict=True):
                self._fresh[top] = value
                self.blobs[top]._data.set(value, borrowed=True)

    def _top_shapes(self, place: Place) -> list[Shape]:
        bottoms = [self.blobs[b].shape for b in place.bottoms]
        if place.layer is None:
            return bottoms * len(place.tops)
        return [tuple(s) for s in place.layer.top_shapes(bottoms)]

    def parameter_blobs(self, place: Place) -> list[Blob]:
        """Return a layer's parameter blobs."""
        if place.layer is None:
            return []
        triples = zip(
            place.layer.parameters_in_order, place.layer.blob_shapes, place.params, strict=True
        )
        return [
            ParameterBlob(shape, parameter_storage(p), self.param_diffs[owner])
            for p, shape, owner in triples
        ]

    @property
    def is_watched(self) -> bool:
        """Whether somebody's hooks have to be called."""
        hooks = (self.before_forward, self.after_forward, self.before_backward, self.after_backward)
        return any(hooks)

    def reshape(self) -> None:
        """Let all shapes follow from those of the first blobs."""
        for place in self.places:
            if place.bottoms:
                for top, shape in zip(place.tops, self._top_shapes(place), strict=True):
                    self._shape_top(place, top, shape)

    def _shape_top(self, place: Place, top: int, shape: Shape) -> None:
        blob = self.blobs[top]
        if place.layer is not None:
            place.layer.check_shape(shape, f"top '{self.names[top]}'")
        blob.take_shape(shape)

    def loss_weights(self) -> list[float]:
        """Return the weight of each blob in the loss, in the solver's iteration."""
        weights = [0.0] * len(self.blobs)
        for place in self.places:
            for top, weight in zip(
                place.tops, place.weights_in(self.net.context.iteration), strict=True
            ):
                weights[top] = weight
        return weights

    def follow_schedules(self) -> None:
        """Let the diffs of losses whose weight has a schedule be that of the solver's iteration."""
        for place in self.places:
            if place.schedule is not None:
                weights = place.weights_in(self.net.context.iteration)
                for top, given, weight in zip(place.tops, place.loss_weights, weights, strict=True):
                    if given:
                        self.blobs[top]._diff.set_all(weight)

    def outputs(self) -> list[str]:
        """Return the names of the blobs that no later layer takes, in alphabetical order."""
        left: set[str] = set()
        for place in self.places:
            left.difference_update(self.names[b] for b in place.bottoms)
            left.update(self.names[t] for t in place.tops)
        return sorted(left - {AUTOMATIC_TOP})

    # ---- forward

    def forward(self, start: int, end: int) -> float:
        """Run the layers from ``start`` to ``end``, both included; return their part of the loss.

        The loss is each such top's values times its diff, which holds the loss weight.
        """
        loss = 0.0
        for index in range(start, end + 1):
            for hook in self.before_forward:
                hook(index)
            place = self.places[index]
            self._forward(place)
            for top, weight in zip(place.tops, place.loss_weights, strict=True):
                if weight:
                    diff = self.blobs[top]._diff.tensor(self.blobs[top].shape)
                    loss += float((self._values(top) * diff).sum())
            for hook in self.after_forward:
                hook(index)
        return loss

    def _forward(self, place: Place) -> None:
        if place.is_view:
            for top, shape in zip(place.tops, self._top_shapes(place), strict=True):
                self._shape_top(place, top, shape)
            # A layer that is watched, as by debug_info, is run for whoever watches it.
            watched = place.layer is not None and place.layer._forward_hooks
            place.record = self._compute(place)[2] if watched else None
            return
        if isinstance(place.layer, Input):  # its blobs hold what was written to them
            self._give_input(place)
            place.layer()  # for whoever has a hook on it
            return
        place.record = None  # frees the memory of the last pass
        bottoms, tops, record = self._compute(place)
        for top, value in zip(place.tops, tops, strict=True):
            if place.bottoms:
                aliases = any(_same_memory(value, b) for b in bottoms)
                in_place = top in place.bottoms
                self._set(top, value.detach().clone() if aliases and not in_place else value)
            elif self._fresh.get(top) is not value:  # a constant is not given again
                self._fresh[top] = value
                self._set(top, value, borrowed=True)
        for parameter in place.layer.parameters_in_order if place.layer else ():
            parameter_storage(parameter).push()  # BatchNorm's change in a forward pass
        place.record = record

    def _set(self, top: int, value: Tensor, borrowed: bool = False) -> None:
        blob = self.blobs[top]
        blob._diff.resize(tuple(value.shape))
        blob._shape = tuple(value.shape)
        blob._data.set(value, borrowed)

    def _compute(self, place: Place) -> tuple[list[Tensor], list[Tensor], Record | None]:
        layer = place.layer
        assert layer is not None
        bottoms = []
        for bottom, needed in zip(place.bottoms, place.needs, strict=True):
            value = self._values(bottom)
            if bottom in place.tops and self.blobs[bottom]._data.is_shared_memory:
                value = value.clone()  # the top is about to take its memory
            bottoms.append(value.requires_grad_(needed))
        for parameter in layer.parameters_in_order:
            parameter_storage(parameter).pull()
        with torch.set_grad_enabled(place.needs_backward):
            tops = list(layer.run(*bottoms))
        if not place.needs_backward:
            return bottoms, tops, None
        versions = [(p, p._version) for p in layer.parameters_in_order]
        return bottoms, tops, Record(bottoms, tops, versions)

    # ---- backward

    def backward(self, start: int, end: int) -> None:
        """Run back from layer ``start`` to layer ``end``, both included, from the tops' diffs."""
        for index in range(start, end - 1, -1):
            for hook in self.before_backward:
                hook(index)
            place = self.places[index]
            if place.needs_backward:
                if place.layer is not None and self.net.param.force_backward:
                    check_backward(place.layer)
                self._backward(place)
            for hook in self.after_backward:
                hook(index)

    def _backward(self, place: Place) -> None:
        if place.is_view:
            if place.record is not None:
                (view,) = place.record.tops
                diff = self.blobs[place.tops[0]]._diff.tensor(tuple(view.shape))
                torch.autograd.grad(view, place.record.bottoms, diff)
                place.record = None
            if not place.shares_diff and place.needs[0]:
                self._add_up(place)
            return
        if place.layer is None or not (place.bottoms or place.params):
            return
        record = place.record
        shapes = [self.blobs[b].shape for b in place.bottoms]
        if record is None or not record.is_of(place.layer, shapes):
            _, _, record = self._compute(place)
            place.record = record
            assert record is not None
        self._heed_edits(place, record)
        pairs = [
            (value, self.blobs[top]._diff.tensor(tuple(value.shape)))
            for value, top in zip(record.tops, place.tops, strict=True)
            if value.requires_grad
        ]
        parameters = [p for p, _ in record.parameters if p.requires_grad]
        sources = [b for b in record.bottoms if b.requires_grad] + parameters
        grads: list[Tensor | None] = [None] * len(sources)
        if pairs and sources:
            values, given = zip(*pairs, strict=True)
            with place.layer.naming("backward"), self._known_gradients(place, record):
                grads = list(
                    torch.autograd.grad(
                        values, sources, given, retain_graph=True, allow_unused=True
                    )
                )
        self._take_gradients(place, record, grads, [g for _, g in pairs])

    @contextmanager
    def _known_gradients(self, place: Place, record: Record) -> Iterator[None]:
        """Let a user's layer find the gradients so far, which it may add to or set anew."""
        if not isinstance(place.layer, Python):
            yield
            return
        for (parameter, _), owner in zip(record.parameters, place.params, strict=True):
            parameter.grad = self.param_diffs[owner].tensor(tuple(parameter.shape))
        try:
            yield
        finally:
            for parameter, _ in record.parameters:
                parameter.grad = None

    def _heed_edits(self, place: Place, record: Record) -> None:
        """Let a layer's graph see what was written to its blobs since the forward pass."""
        for top in place.tops:
            self.blobs[top]._data.pull()
        for number, value in zip(place.bottoms, record.bottoms, strict=True):
            data = self.blobs[number]._data
            if data.is_pinned and number not in place.tops:
                now = data.tensor(tuple(value.shape))
                if now.data_ptr() != value.data_ptr():
                    value.data.copy_(now)

    def _take_gradients(
        self, place: Place, record: Record, grads: list[Tensor | None], given: list[Tensor]
    ) -> None:
        taken = {g.untyped_storage().data_ptr() for g in given}
        results = iter(grads)
        for bottom, value in zip(place.bottoms, record.bottoms, strict=True):
            if value.requires_grad:
                grad = next(results)
                own = torch.zeros_like(value) if grad is None else _own(grad, taken)
                self.blobs[bottom]._diff.set(own.detach())
        for (parameter, _), owner in zip(record.parameters, place.params, strict=True):
            if parameter.requires_grad:
                grad = next(results)
                if grad is not None:
                    self.param_diffs[owner].add(grad)

    def _add_up(self, place: Place) -> None:
        """Give a Split's bottom the sum of its tops' gradients."""
        bottom = self.blobs[place.bottoms[0]]
        diffs = [self.blobs[t]._diff.tensor(bottom.shape) for t in place.tops]
        total = diffs[0].clone()
        for diff in diffs[1:]:
            total += diff
        bottom._diff.set(total)

    def visit_all(self) -> None:
        """Let backward passes visit all layers with parameters that learn, without a loss too.

        So Caffe's ``time`` measures: bottoms get gradients only where a loss asks for them.
        """
        for place in self.places:
            learns = any(self.net.params[i].blob.requires_grad for i in place.params)
            place.needs_backward = place.needs_backward or learns

    def clear_param_diffs(self) -> None:
        """Set the parameters' gradients to 0."""
        for diff in self.param_diffs:
            diff.set_all(0.0)

    # ---- beside the solver's loop, which runs the net underneath

    def pull_weights(self) -> None:
        """Let the net underneath see what was written to parameters."""
        for param in self.net.params:
            parameter_storage(param.blob).pull()

    def push_weights(self) -> None:
        """Show parameters that were changed underneath."""
        for param in self.net.params:
            parameter_storage(param.blob).push()

    def give_inputs(self) -> None:
        """Let the net underneath see what was written to blobs that no layer computes."""
        for place in self.places:
            if isinstance(place.layer, Input):
                self._give_input(place)
            elif isinstance(place.layer, DummyData):
                for index, top in enumerate(place.tops):
                    if self._fresh[top] is place.layer.values[index]:  # a constant, may be edited
                        self._fresh[top] = place.layer.values[index] = self._values(top)

    def _give_input(self, place: Place) -> None:
        assert isinstance(place.layer, Input)
        for index, top in enumerate(place.tops):
            place.layer.set(index, self._values(top))

    def give_blobs(self) -> None:
        """Let the net underneath have the values of the blobs, as if it had run itself."""
        for name in self.net.shapes:
            self.net.blobs[name] = self._values(self.by_name[name])

    def release_blobs(self) -> None:
        """Let go of what ``take_blobs`` showed, so that the next iteration has the memory."""
        for blob in self.blobs:
            blob._data.release()
            blob._diff.release()

    def take_blobs(self, diffs: Mapping[int, Tensor] | None = None) -> None:
        """Show the blobs that the net underneath has computed, and gradients that were kept."""
        for name, value in self.net.blobs.items():
            top = self.by_name[name]
            if not self.blobs[top]._data.holds(value):
                self._set(top, value, borrowed=True)
            if value.is_leaf and value.grad is not None:  # data, where force_backward asks
                self.blobs[top]._diff.set(value.grad, borrowed=True)
        for place in self.places:
            place.record = None
            if place.is_view:  # of one memory, but each has its shape
                for top, shape in zip(place.tops, self._top_shapes(place), strict=True):
                    self.blobs[top].take_shape(shape)
        for number, diff in (diffs or {}).items():
            self.blobs[number]._diff.set(diff, borrowed=True)

    def _values(self, number: int) -> Tensor:
        blob = self.blobs[number]
        return blob._data.tensor(blob.shape)

    def index_of(self, layer: str) -> int:
        """Return the number of the first layer of a name.

        Raises:
            NetError: there is none.
        """
        for index, place in enumerate(self.places):
            if place.name == layer:
                return index
        known = [p.name for p in self.places]
        raise NetError(f"the net has no layer '{layer}'.{did_you_mean(layer, known)}")


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def _own(grad: Tensor, taken: set[int]) -> Tensor:
    """Return a gradient in memory of its own: autograd may hand on one tensor to several."""
    memory = grad.untyped_storage().data_ptr()
    expanded = grad.numel() * grad.element_size() > grad.untyped_storage().nbytes()
    if memory in taken or expanded:
        grad = grad.clone(memory_format=torch.contiguous_format)
        memory = grad.untyped_storage().data_ptr()
    taken.add(memory)
    return grad
