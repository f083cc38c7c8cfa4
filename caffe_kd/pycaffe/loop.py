"""The solver's loop, with pycaffe wrappers of its nets that show its results.

The loop runs the core nets, each as one graph. Only in the last iteration of a ``step`` are the
gradients of blobs and the parameters' changes kept. Where the train net's wrapper has hooks, its
passes are run instead, layer by layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import SolverError
from ..core.multi_tensor import foreach
from ..layers.base import tops_of
from ..solver import callback, lr_policy
from ..solver.options import Options
from ..solver.plan import TrainingPlan
from ..solver.solver import Solver as CoreSolver
from ..solver.updates import SGD
from . import mode
from .glog import LOG
from .graph import Graph
from .net import Net

Callback = Callable[[], object]


class Loop(callback.Callback):
    """Trains as the train command does, with itself as a callback of the solver.

    Attributes:
        core: the solver that trains.
        net: the train net's wrapper.
        test_nets: the test nets' wrappers.
        on_iteration: called before each iteration's passes.
        on_gradients_ready: called after them, before the update.
    """

    def __init__(self, plan: TrainingPlan) -> None:
        exact = mode.exact_sums(plan.solver.type)
        seeds = plan.solver.random_seed >= 0 or not mode.is_seeded()
        # No cache of the teacher's outputs: scripts expect every blob to be computed.
        options = Options(teacher_cache="off", exact_sums=exact, seed=seeds)
        self.core = CoreSolver(plan, LOG, mode.device(), options, [self])
        self.net = Net.over(self.core.net)
        self.test_nets = [Net.over(net) for net in self.core.test_nets]
        self.on_iteration: list[Callback] = []
        self.on_gradients_ready: list[Callback] = []
        self._diffs: dict[int, Tensor] = {}
        self._keeping = ExitStack()  # of the hooks that keep gradients of blobs
        self._before: list[Tensor] | None = None  # the parameters before the last update
        numbers = {id(param): i for i, param in enumerate(self.core.net.params)}
        self._numbers = [numbers[id(param)] for param in self.core.params]

    @property
    def _graph(self) -> Graph:
        return self.net._graph

    @property
    def rate(self) -> float:
        """The learning rate of the next update."""
        return lr_policy.learning_rate(self.core.param, self.core.iter, self._policy_step)

    @property
    def _policy_step(self) -> int:
        core = self.core
        return lr_policy.next_step(core.param, core.iter, core.current_step)

    # ---- running

    def solve(self, state: str | Path | None = None) -> None:
        """Train to max_iter."""
        core = self.core
        if not core.param.HasField("max_iter"):
            raise SolverError(
                "max_iter is not given: solve() trains up to it. step(n) does not need it",
                str(core.plan.file),
            )
        with self._shown():
            core.solve(state)

    def step(self, count: int) -> None:
        """Train for some iterations."""
        with self._shown():
            self.core.step(count)

    @contextmanager
    def _shown(self) -> Iterator[None]:
        """Start the solver from what the user wrote, and show its results."""
        graph = self._graph
        graph.pull_weights()
        graph.give_inputs()
        graph.release_blobs()
        try:
            yield
        finally:
            self._keeping.close()
            self.core.stop_iter = self.core.iter
            self._show_update()
            graph.push_weights()
            graph.take_blobs(self._diffs)
            self._diffs = {}
            self._show_iteration()

    def _show_iteration(self) -> None:
        """Set scheduled values to those of the next iteration in the wrappers' passes."""
        for net in [self.net, *self.test_nets]:
            net._graph.net.set_iteration(self.core.iter)
            net._graph.apply_schedules()

    def resume(self, path: str | Path) -> None:
        """Resume from a solverstate and the weights it names."""
        self.core.restore(path)
        self._graph.push_weights()
        self._show_iteration()

    def apply_update(self) -> None:
        """Update the parameters by their diffs, as they are, and count an iteration."""
        self._graph.pull_weights()
        self._take_gradients()
        self.core.update(self._policy_step, self.rate)
        self._show_update()
        self.core.iter += 1
        self._graph.push_weights()
        self._show_iteration()

    # ---- in the solver's loop

    @property
    def _is_last(self) -> bool:
        return self.core.iter + 1 >= self.core.stop_iter

    def before_forward(self, solver: CoreSolver) -> None:
        """Choose how this iteration's passes are run."""
        self._call(self.on_iteration)
        self._diffs = {}
        if self._graph.has_hooks:
            solver.one_pass = self._pass_by_layers
            self._graph.push_weights()
            self._graph.apply_schedules()
            self._graph.clear_param_diffs()
            return
        solver.one_pass = solver.forward_backward
        if self._is_last or self.on_gradients_ready:
            self._diffs = self._keeping.enter_context(kept_diffs(self._graph))

    def _pass_by_layers(self) -> float:
        graph, last = self._graph, len(self._graph.nodes) - 1
        loss = graph.forward(0, last)
        graph.backward(last, 0)
        graph.pull_weights()
        graph.give_blobs()
        self._take_gradients()
        self.core.after_backward()
        return loss

    def before_update(self, solver: CoreSolver) -> None:
        """Let the user read and change the gradients."""
        self._keeping.close()
        if self.on_gradients_ready and solver.iter < solver.stop_iter:
            if not self._graph.has_hooks:
                self._show_gradients()
            self._call(self.on_gradients_ready)
            self._take_gradients()
        if self._is_last:
            # For SGD the history is what was subtracted.
            is_sgd = solver.updater.rule is SGD
            self._before = [] if is_sgd else [p.blob.detach().clone() for p in solver.params]

    def before_test(self, solver: CoreSolver, index: int) -> None:
        """Give the test net what was written to its wrapper's inputs."""
        self.test_nets[index]._graph.give_inputs()

    def on_test(self, solver: CoreSolver, results: Sequence[dict[str, list[float]]]) -> None:
        """Show the blobs that the tests have computed."""
        for net in self.test_nets:
            net._graph.take_blobs()

    def _call(self, callbacks: list[Callback]) -> None:
        if callbacks:
            self._graph.push_weights()
            for function in callbacks:
                function()
            self._graph.pull_weights()

    def _show_gradients(self) -> None:
        self._graph.take_blobs(self._diffs)
        for number, param in zip(self._numbers, self.core.params, strict=True):
            diff = self._graph.param_diffs[number]
            if param.blob.grad is None:
                diff.set_all(0.0)
            else:
                diff.set(param.blob.grad)

    def _take_gradients(self) -> None:
        for number, param in zip(self._numbers, self.core.params, strict=True):
            if param.blob.requires_grad:
                # In the parameter's layout, which the update rules rely on.
                grad = torch.empty_like(param.blob, requires_grad=False)
                shape = tuple(param.blob.shape)
                param.blob.grad = grad.copy_(self._graph.param_diffs[number].tensor(shape))

    def _show_update(self) -> None:
        """Set a parameter's diff to what the last update subtracted from it, as in Caffe."""
        before, self._before = self._before, None
        if before is None:
            return
        diffs = [self._graph.param_diffs[number] for number in self._numbers]
        if not before:
            for index, diff in enumerate(diffs):
                diff.set_later(partial(self._history, index))
            return
        with torch.no_grad():
            foreach("sub_", before, [param.blob for param in self.core.params])
        for diff, change in zip(diffs, before, strict=True):
            diff.set(change)

    def _history(self, index: int) -> Tensor:
        return self.core.updater.history()[index].clone()


@contextmanager
def kept_diffs(graph: Graph) -> Iterator[dict[int, Tensor]]:
    """Keep the gradient of every blob while the core net runs as one graph.

    Autograd computes them anyway; a hook on each blob stores them. Where several layers take a
    blob, each gets its own alias, so that its share is known.

    Yields:
        The gradients by the number of the blob.
    """
    diffs: dict[int, Tensor] = {}
    copies = {top for node in graph.nodes if node.type == "Split" for top in node.tops}
    handles = []
    for node in graph.nodes:
        if node.layer is None or node.type == "Split":
            continue
        if not copies.isdisjoint(node.bottoms):
            hook = partial(_branch, diffs, copies, node.bottoms)
            handles.append(node.layer.register_forward_pre_hook(hook))
        handles.append(node.layer.register_forward_hook(partial(_watch, diffs, node.tops)))
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
    tops = tops_of(result)
    for number, top in zip(numbers, tops, strict=True):
        if top.requires_grad:
            _on_gradient(top, partial(_keep, diffs, number))
