"""The training loop.

``Solver.step`` is the loop and reads from top to bottom; the other methods are its parts. Optional
features are callbacks: callback.py has their base, features.py the list.
Source: Caffe's Solver::Solve, Step, TestAll, Snapshot and SGDSolver::ApplyUpdate.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..core.errors import CaffeKDError, NonFinite, NonFiniteLoss, NonFiniteWeights
from ..logs.log import Log
from ..net import non_finite
from ..proto import caffe_pb2 as pb
from ..proto import schedule
from ..proto.binary import read_weights
from . import building, features, lr_policy, models, snapshot
from .callback import Action, Callback, overriding
from .options import Options
from .output_format import output_lines
from .plan import TrainingPlan
from .updates import Updater


class Solver:
    """Trains the net of a plan.

    Args:
        plan: what to train, from ``read_plan``.
        log: the log.
        device: the device to train on; None: the CPU.
        options: settings beyond the plan.
        callbacks: callbacks of the caller, which run before those of the features that plan and
            options ask for.

    Attributes:
        net: the train net; ``test_nets`` share its weights, ``nets`` are all of them.
        params: the parameters that learn or may, without the teachers'.
        callbacks: all callbacks, in the order in which they run.
        iter: the number of updates done.
        stop_iter: the iteration at which the running ``step`` ends.
        current_step: how many steps the learning rate policy has taken.
        one_pass: runs one forward and backward pass and returns its loss; may be replaced by a
            caller that runs the net in another way.
        retain_graph: whether a callback needs the graph of this iteration's passes.
        snapshots: the paths of the last snapshot's weights and state.
        stopped: whether a requested action stopped the training early.
        ended: whether a callback has ended the training after a test.
        models: the contents of a snapshot's weights files.
        losses: the losses of the last average_loss iterations.

    Raises:
        CaffeKDError: a setting, net or weights file is wrong.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        log: Log,
        device: torch.device | None = None,
        options: Options | None = None,
        callbacks: Iterable[Callback] = (),
    ) -> None:
        options = options or Options()
        self.plan = plan
        self.param = plan.solver
        self.log = log
        self.device = device or torch.device("cpu")
        self.iter = 0
        self.current_step = 0
        self.stop_iter = 0
        self.snapshots: tuple[Path, Path] | None = None
        self._restored_losses: list[float] = []  # for the first step() after restore()
        self._stages: dict[str, int] = {}  # of the schedules, as last logged
        self.stopped = self.ended = False
        self.one_pass = self.forward_backward
        self.retain_graph = False
        self.losses: deque[float] = deque(maxlen=self.param.average_loss)
        self._timer = time.perf_counter()
        self._timed_iter = 0
        for warning in lr_policy.check(self.param, plan.where("lr_policy")):
            log.warning(warning)
        if options.seed:
            self._seed()
        for note in plan.notes:
            log.info(note)
        for warning in plan.warnings:
            log.warning(warning)
        exact = options.exact_sums
        build = partial(building.build, log=log, device=self.device, exact_sums=exact)
        self.net = build(plan.train.param, pb.TRAIN, plan.train.file, "training net")
        building.check_students_come_first(self.net)
        self.test_nets = [
            build(test.param, pb.TEST, test.file, f"test net (#{i})")
            for i, test in enumerate(plan.tests)
        ]
        self.nets = [self.net, *self.test_nets]
        self.callbacks: list[Callback] = []
        building.load_teachers(plan, self.nets, log)
        self._load_start()
        self.params, _ = models.learned(self.net, plan.frozen_names)
        params = [(p.blob, p.lr_mult, p.decay_mult) for p in self.params]
        self.updater = Updater(self.param, params, plan.where("type"))
        for net in self.test_nets:
            net.share_weights(self.net)
        self.models = models.models(self.nets, plan)
        self.callbacks = [*callbacks, *features.build(self, options)]
        self._on_start = overriding(self.callbacks, "on_start")
        self._before_forward = overriding(self.callbacks, "before_forward")
        self._after_backward = overriding(self.callbacks, "after_backward")
        self._before_update = overriding(self.callbacks, "before_update")
        self._after_update = overriding(self.callbacks, "after_update")
        self._requested = overriding(self.callbacks, "requested")

    # ---- building

    def _seed(self) -> None:
        seed = self.param.random_seed
        if seed < 0:
            seed = torch.seed() % 2**63  # what random_seed can hold
            self.log.info(f"random_seed is not given; this run's is {seed}")
        torch.manual_seed(seed)

    def _load_start(self) -> None:
        """Load the weights that the plan starts from."""
        plan = self.plan
        for student in plan.students:
            if student.path is not None:
                self.load_weights(student.path, student.name)
        for path in plan.student_weights:
            self.load_weights(path)
        building.inject(plan, self.net, self.log)
        building.report_new_layers(plan, self.net, self.log)

    def load_weights(self, path: str | Path, student: str | None = None) -> None:
        """Copy weights from a file into the layers of the same name, in the test nets too.

        Args:
            path: the file.
            student: the student whose layers they are, if there are several.
        """
        self.log.info(f"Finetuning from {path}" + (f" (student '{student}')" if student else ""))
        layers = read_weights(path)
        if student is not None:
            layers = building.prefixed(student, layers)
        copied = self.net.copy_weights(layers, str(path))
        for name in copied.ignored:
            self.log.info(f"Ignoring source layer {name}")
        if copied.misfit is not None:
            self.log.warning(f"{copied.misfit}. Training starts from the fillers' values")
        for net in self.test_nets:
            net.copy_weights(layers, str(path))
        for callback in self.callbacks:
            callback.on_load(self)

    # ---- running

    def solve(self, state: str | Path | None = None) -> None:
        """Train to max_iter, with tests and snapshots, and log the final loss and test.

        Args:
            state: a solverstate to resume from.

        Raises:
            NonFiniteLoss: the loss became NaN or infinite.
        """
        log, param = self.log, self.param
        self.stopped = False
        log.info(f"Solving {self.net.name}")
        log.info(f"Learning Rate Policy: {param.lr_policy}")
        if state is not None:
            self.restore(state)
        if self.iter > param.max_iter:
            log.warning(f"max_iter is {param.max_iter}, and iteration {self.iter} is beyond it")
        self.step(param.max_iter - self.iter)
        self.check_weights()
        on_snapshot = param.snapshot and self.iter % param.snapshot == 0
        if param.snapshot_after_train and not on_snapshot:
            self.snapshot()
        for callback in self.callbacks:
            callback.on_end(self)
        if self.stopped:
            log.info("Optimization stopped early.")
            return
        if not self.ended:  # early stopping has just run the last test
            self._log_end()
        log.info("Optimization Done.")

    def _log_end(self) -> None:
        self._set_iteration()
        if self.displays:
            with torch.no_grad():
                loss = self.net()
            self.losses.append(0.0 if loss is None else float(loss))
            self.log.info(f"Iteration {self.iter}, loss = {self.smoothed_loss:g}")
        if self._tests_now():
            self.test_all()

    def step(self, count: int) -> None:
        """Run ``count`` iterations.

        An iteration: test if it is due, sum the gradients of iter_size passes, display, update,
        handle signals, snapshot if it is due.
        """
        param = self.param
        self.stop_iter = self.iter + count
        self.ended = False
        self.losses.clear()
        self.losses.extend(self._restored_losses)
        self._restored_losses = []
        for hook in self._on_start:
            hook(self)
        self._timer, self._timed_iter = time.perf_counter(), self.iter
        while self.iter < self.stop_iter:
            self.updater.clear()
            step = lr_policy.next_step(param, self.iter, self.current_step)
            rate = lr_policy.learning_rate(param, self.iter, step)
            for net in self.nets:
                net.context.rate = rate
            self._set_iteration()
            if self._tests_now() and (self.iter > 0 or param.test_initialization):
                self.test_all()
                if self.stopped or self.ended:
                    return
            loss = self._run_passes()
            self.losses.append(loss)
            if self.displays:
                self._display()
            self.update(step, rate, loss)
            self.iter += 1
            action = self._action()
            due = param.snapshot and self.iter % param.snapshot == 0
            if due or action is Action.SNAPSHOT:
                # A failure to write the final snapshot is an error; an earlier one is logged.
                (self.snapshot if self.iter >= param.max_iter else self._snapshot_on_the_way)()
            if action is Action.STOP:
                self.stopped = True
                return

    def _set_iteration(self) -> None:
        """Set scheduled values for this iteration, and log when a stage begins."""
        for net in self.nets:
            net.set_iteration(self.iter)
        for name, points in self.net.schedules.items():
            stage = schedule.stage_at(points, self.iter)
            if self._stages.get(name) != stage:
                self._stages[name] = stage
                self.log.info(f"Schedule of {name}: {schedule.outlook(points, self.iter)}")

    def _run_passes(self) -> float:
        """Sum the gradients of iter_size passes; return the mean loss."""
        self.retain_graph = False
        for hook in self._before_forward:
            hook(self)
        total = 0.0
        for _ in range(self.param.iter_size):
            loss = self.one_pass()
            if not math.isfinite(loss):
                self._stop_non_finite(loss)
            total += loss
        return total / self.param.iter_size

    def forward_backward(self) -> float:
        """Run one forward and backward pass of the train net; return its loss."""
        objective = self.net()
        if objective is None:
            return 0.0  # a net without a loss learns nothing, as in Caffe
        if objective.requires_grad:
            self.net.backward(objective, self.retain_graph)
            if self._after_backward:
                self.after_backward()
        return float(objective.detach())

    def after_backward(self) -> None:
        """Call the callbacks' ``after_backward``; for callers that replace ``one_pass``."""
        for hook in self._after_backward:
            hook(self)

    def _stop_non_finite(self, loss: float) -> None:
        where = non_finite.first_in(self.net)
        raise NonFiniteLoss(
            f"the loss is {loss} in iteration {self.iter}: training stopped before this update. "
            + (f"NaN or infinity first appears {where}. " if where else "")
            + self._advice()
        )

    def check_weights(self) -> None:
        """Refuse weights that an update has made NaN or infinite.

        Raises:
            NonFiniteWeights: naming the first of them.
        """
        where = non_finite.in_parameters(self.nets)
        if where is not None:
            raise NonFiniteWeights(
                f"the weights are not finite after {self.iter} iterations: {where}. Training "
                f"stopped, and these weights are not saved. {self._advice()}"
            )

    def _advice(self) -> str:
        last = "none yet" if self.snapshots is None else str(self.snapshots[1])
        return (
            f"Last snapshot: {last}. Try a smaller base_lr (now {self.param.base_lr:g}), "
            "clip_gradients, or look for samples and labels out of range"
        )

    def update(self, step: int, rate: float, loss: float | None = None) -> None:
        """Update the parameters with their gradients.

        Args:
            step: how many steps the learning rate policy has taken.
            rate: the learning rate.
            loss: the loss that the progress line shows; None: no progress line.
        """
        if step != self.current_step and self.param.lr_policy == "multistep":
            self.log.info(f"MultiStep Status: Iteration {self.iter}, step = {step}")
        self.current_step = step
        if self.displays:
            self.log.info(f"Iteration {self.iter}, lr = {rate:g}")
        if loss is not None:
            self.log.progress(self.iter, self.param.max_iter, loss, rate)
        for hook in self._before_update:
            hook(self)
        clipped = self.updater.apply(rate, self.iter)
        if clipped is not None:
            norm, scale = clipped
            self.log.info(
                f"Gradient clipping: scaling down gradients (L2 norm {norm:g} > "
                f"{self.param.clip_gradients:g}) by scale factor {scale:g}"
            )
        for hook in self._after_update:
            hook(self)

    def _action(self) -> Action:
        for hook in self._requested:
            action: Action = hook()
            if action is not Action.NONE:
                return action
        return Action.NONE

    # ---- logging

    @property
    def smoothed_loss(self) -> float:
        """The mean loss of the last average_loss iterations of this step() call."""
        return sum(self.losses) / len(self.losses) if self.losses else 0.0

    @property
    def displays(self) -> bool:
        """Whether this iteration is displayed."""
        return self.param.display > 0 and self.iter % self.param.display == 0

    def _display(self) -> None:
        elapsed = time.perf_counter() - self._timer
        per_second = (self.iter - self._timed_iter) / (elapsed or 1)
        self._timer, self._timed_iter = time.perf_counter(), self.iter
        self.log.info(
            f"Iteration {self.iter} ({per_second:g} iter/s, {elapsed:g}s/{self.param.display} "
            f"iters), loss = {self.smoothed_loss:g}"
        )
        blobs = self.net.blobs
        values = {name: blobs[name].detach().flatten().tolist() for name in self.net.outputs}
        for line in output_lines("Train", self.net, values):
            self.log.info(line)

    # ---- testing

    def _tests_now(self) -> bool:
        interval = self.param.test_interval
        return bool(self.test_nets) and interval > 0 and self.iter % interval == 0

    def test_all(self) -> list[dict[str, list[float]]]:
        """Test every test net; return the mean of each output blob by name."""
        if self.iter > 0:
            self.check_weights()
        results = []
        for index in range(len(self.test_nets)):
            if not self.stopped:
                results.append(self.test(index))
        if self.stopped:
            return results
        self.ended = False
        for callback in self.callbacks:
            callback.on_test(self, results)
        return results

    @torch.no_grad()
    def test(self, index: int) -> dict[str, list[float]]:
        """Run test_iter batches through a test net and log the mean of its outputs."""
        for callback in self.callbacks:
            callback.before_test(self, index)
        net = self.test_nets[index]
        self.log.info(f"Iteration {self.iter}, Testing net (#{index})")
        sums: dict[str, Tensor] = {}
        guard = non_finite.OutputGuard(net)
        total_loss = 0.0
        batches = self.param.test_iter[index]
        for _ in range(batches):
            action = self._action()
            if action is Action.SNAPSHOT:
                self.snapshot()
            elif action is Action.STOP:
                self.stopped = True
                self.log.info("Test interrupted.")
                return {}
            loss = net()
            if self.param.test_compute_loss and loss is not None:
                total_loss += float(loss)
            guard.add()
            for name in net.outputs:
                value = net.blobs[name].flatten()
                sums[name] = sums[name] + value if name in sums else value
        if self.param.test_compute_loss:
            self.log.info(f"Test loss: {total_loss / max(1, batches):g}")
        means = {name: (total / batches).tolist() for name, total in sums.items()}
        for line in output_lines("Test", net, means):
            self.log.info(line)
        for name, blob in guard.outputs_with_nan().items():
            self.log.warning(
                f"Test net (#{index}): {name} is meaningless, because blob '{blob}' has NaN"
            )
            means[name] = [math.nan] * len(means[name])
        return means

    # ---- snapshots

    def snapshot(self) -> tuple[Path, Path]:
        """Write weights and state; return their paths."""
        self.check_weights()
        for callback in self.callbacks:
            callback.on_snapshot(self)
        self.snapshots = snapshot.write(self)
        return self.snapshots

    def newest_snapshot(self) -> tuple[Path, Path]:
        """Return the snapshot of this iteration; write it if there is none yet."""
        name = f"{self.param.snapshot_prefix}_iter_{self.iter}."
        if self.snapshots is not None and str(self.snapshots[0]).startswith(name):
            return self.snapshots
        return self.snapshot()

    def stateful(self) -> dict[str, Callback]:
        """Return the callbacks that have state, by name."""
        return {callback.name: callback for callback in self.callbacks if callback.name}

    def _snapshot_on_the_way(self) -> None:
        self.write_on_the_way("snapshot", self.snapshot)

    def write_on_the_way(self, what: str, write: Callable[[], object]) -> None:
        """Write a file; if that fails, log the error and go on training."""
        try:
            write()
        except NonFinite:
            raise
        except CaffeKDError as error:
            last = "none" if self.snapshots is None else str(self.snapshots[1])
            self.log.error(f"No {what} of iteration {self.iter}: {error}. Last one: {last}")

    def restore(self, path: str | Path) -> None:
        """Resume from a solverstate and the weights it names.

        Raises:
            SolverError: the snapshot belongs to another net or solver type.
            ParseError: a file is missing or damaged.
        """
        self._restored_losses = snapshot.restore(self, Path(path))
