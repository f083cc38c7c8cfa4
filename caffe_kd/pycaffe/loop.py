"""The solver's loop, with faces of its nets that show what it has done.

The loop runs the nets underneath, each as one graph. Only in the last iteration of a ``step`` are
the gradients of blobs kept and the parameters' changes taken down. Where the train net's face has
hooks, its passes are run instead, layer by layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SolverError
from ..solver import lr_policy
from ..solver.plan import Plan
from ..solver.solver import Solver as CoreSolver
from ..solver.updates import SGD
from . import mode
from .glog import LOG
from .graph import Graph
from .net import Net

Callback = Callable[[], object]


class Loop(CoreSolver):
    """Trains as the command does.

    Attributes:
        face: the train net's face.
        test_faces: the test nets' faces.
        on_start: called before each iteration's passes.
        on_gradients_ready: called after them, before the update.
    """

    def __init__(self, plan: Plan) -> None:
        # No remembered teacher: whoever looks at a blob wants it computed.
        exact = mode.exact_sums(plan.solver.type)
        super().__init__(plan, LOG, mode.device(), teacher_cache="off", exact_sums=exact)
        self.face = Net.over(self.net)
        self.test_faces = [Net.over(net) for net in self.test_nets]
        self.on_start: list[Callback] = []
        self.on_gradients_ready: list[Callback] = []
        self._stop_iter = 0
        self._diffs: dict[int, Tensor] = {}
        numbers = {id(param): i for i, param in enumerate(self.net.params)}
        self._numbers = [numbers[id(param)] for param in self._own]

    def _seed(self) -> None:
        if self.param.random_seed >= 0 or not mode.is_seeded():
            super()._seed()

    @property
    def _graph(self) -> Graph:
        return self.face._graph

    @property
    def rate(self) -> float:
        """The learning rate of the next update."""
        step = lr_policy.next_step(self.param, self.iter, self.current_step)
        return lr_policy.learning_rate(self.param, self.iter, step)

    # ---- running

    def solve(self, state: str | Path | None = None) -> None:
        if not self.param.HasField("max_iter"):
            raise SolverError(
                "max_iter is not given: solve() trains up to it. step(n) does without",
                str(self.plan.file),
            )
        try:
            super().solve(state)
        finally:
            self._graph.take_blobs()  # of the forward pass behind the last iteration

    def step(self, count: int) -> None:
        self._stop_iter = self.iter + count
        self._graph.pull_weights()
        self._graph.give_inputs()
        self._graph.release_blobs()
        try:
            super().step(count)
        finally:
            self._graph.push_weights()
            self._graph.take_blobs(self._diffs)
            self._diffs = {}
            self._show_iteration()

    def _show_iteration(self) -> None:
        """Let passes of the faces have what has a schedule as it is in the next iteration."""
        for face in [self.face, *self.test_faces]:
            face._graph.net.set_iteration(self.iter)
            face._graph.follow_schedules()

    def _forward_backward(self) -> float:
        self._call(self.on_start)
        if self._graph.is_watched:
            loss = self._passes_of_face()
            self._call(self.on_gradients_ready)
            self._take_gradients()
            return loss
        is_last = self.iter + 1 == self._stop_iter
        if not (is_last or self.on_gradients_ready):
            return super()._forward_backward()
        with kept_diffs(self._graph) as self._diffs:
            loss = super()._forward_backward()
        if self.on_gradients_ready:
            self._show_gradients()
            self._call(self.on_gradients_ready)
            self._take_gradients()
        return loss

    def _passes_of_face(self) -> float:
        """Run the passes of an iteration layer by layer; return the mean loss."""
        graph, last = self._graph, len(self._graph.places) - 1
        graph.push_weights()
        graph.follow_schedules()
        graph.clear_param_diffs()
        total = 0.0
        for _ in range(self.param.iter_size):
            total += graph.forward(0, last)
            graph.backward(last, 0)
        graph.pull_weights()
        graph.give_blobs()
        self._diffs = {}
        loss = total / self.param.iter_size
        if not math.isfinite(loss):
            self._stop_non_finite(loss)
        return loss

    def _call(self, callbacks: list[Callback]) -> None:
        if callbacks:
            self._graph.push_weights()
            for callback in callbacks:
                callback()
            self._graph.pull_weights()

    def _show_gradients(self) -> None:
        self._graph.take_blobs(self._diffs)
        for number, param in zip(self._numbers, self._own, strict=True):
            diff = self._graph.param_diffs[number]
            if param.blob.grad is None:
                diff.set_all(0.0)
            else:
                diff.set(param.blob.grad)

    def _take_gradients(self) -> None:
        for number, param in zip(self._numbers, self._own, strict=True):
            if param.blob.requires_grad:
                # In the parameter's layout, which the update rules rely on.
                grad = torch.empty_like(param.blob, requires_grad=False)
                shape = tuple(param.blob.shape)
                param.blob.grad = grad.copy_(self._graph.param_diffs[number].tensor(shape))

    def _update(self, rate: float) -> None:
        if self.iter + 1 == self._stop_iter:
            self._update_showing(rate)
        else:
            super()._update(rate)

    def _update_showing(self, rate: float) -> None:
        """Update; what was subtracted from a parameter is its diff then, as in the original."""
        diffs = [self._graph.param_diffs[number] for number in self._numbers]
        if self.updater.rule is SGD:  # whose history it is
            super()._update(rate)
            for index, diff in enumerate(diffs):
                diff.set_later(partial(self._history, index))
            return
        before = [param.blob.detach().clone() for param in self._own]
        super()._update(rate)
        with torch.no_grad():
            torch._foreach_sub_(before, [param.blob for param in self._own])
        for diff, change in zip(diffs, before, strict=True):
            diff.set(change)

    def _history(self, index: int) -> Tensor:
        return self.updater.history()[index].clone()

    def apply_update(self) -> None:
        """Update the parameters by their diffs, as they are, and count an iteration."""
        self._graph.pull_weights()
        self._take_gradients()
        rate = self.rate
        self._take_step(lr_policy.next_step(self.param, self.iter, self.current_step))
        if self._displays():
            self.log.info(f"Iteration {self.iter}, lr = {rate:g}")
        self._update_showing(rate)
        self.iter += 1
        self._graph.push_weights()
        self._show_iteration()

    def test(self, index: int) -> dict[str, list[float]]:
        graph = self.test_faces[index]._graph
        graph.give_inputs()
        try:
            return super().test(index)
        finally:
            graph.take_blobs()

    def restore(self, path: str | Path) -> None:
        super().restore(path)
        self._graph.push_weights()
        self._show_iteration()


@contextmanager
def kept_diffs(graph: Graph) -> Iterator[dict[int, Tensor]]:
    """Keep the gradient of every blob while the net underneath runs as one graph.

    Autograd computes them anyway; a hook on each blob takes them down. Where several layers take a
    blob, each gets an alias of its own, so that its part is known.

    Yields:
        The gradients by the number of the blob.
    """
    diffs: dict[int, Tensor] = {}
    copies = {top for place in graph.places if place.type == "Split" for top in place.tops}
    handles = []
    for place in graph.places:
        if place.layer is None or place.type == "Split":
            continue
        if not copies.isdisjoint(place.bottoms):
            hook = partial(_branch, diffs, copies, place.bottoms)
            handles.append(place.layer.register_forward_pre_hook(hook))
        handles.append(place.layer.register_forward_hook(partial(_watch, diffs, place.tops)))
    try:
        yield diffs
    finally:
        for handle in handles:
            handle.remove()


def _on_gradient(tensor: Tensor, hook: Callable[[Tensor], None]) -> None:
    tensor.register_hook(hook)  # type: ignore[no-untyped-call]


def _keep(diffs: dict[int, Tensor], number: int, grad: Tensor) -> None:
    diffs[number] = grad


def _branch(
    diffs: dict[int, Tensor],
    copies: set[int],
    numbers: list[int],
    _layer: nn.Module,
    bottoms: tuple[Tensor, ...],
) -> tuple[Tensor, ...]:
    taken = []
    for number, bottom in zip(numbers, bottoms, strict=True):
        if number in copies and bottom.requires_grad:
            bottom = bottom.view_as(bottom)
            _on_gradient(bottom, partial(_keep, diffs, number))
        taken.append(bottom)
    return tuple(taken)


def _watch(
    diffs: dict[int, Tensor],
    numbers: list[int],
    _layer: nn.Module,
    _bottoms: Any,
    result: Tensor | tuple[Tensor, ...],
) -> None:
    tops = (result,) if isinstance(result, Tensor) else result
    for number, top in zip(numbers, tops, strict=True):
        if top.requires_grad:
            _on_gradient(top, partial(_keep, diffs, number))
