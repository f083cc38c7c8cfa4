"""The training loop.

``Solver.step`` is the loop, readable from top to bottom; the other methods are its sentences.
Source: Caffe's Solver::Solve, Step, TestAll, Snapshot and SGDSolver::ApplyUpdate.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from .. import schedule
from ..errors import CaffeKDError, NonFiniteLoss
from ..log import Log
from ..proto import caffe_pb2 as pb
from ..proto.binary import read_weights
from . import building, lr_policy, resume, snapshot
from .best import Watch
from .debug_info import DebugInfo
from .gradient_shares import GradientShares
from .max_norm import MaxNorm
from .mean_teacher import MeanTeacher
from .plan import Plan
from .signals import Action, SignalActions
from .teacher_cache import TeacherCache, remember
from .telling import output_lines
from .updates import Updater


class Solver:
    """Trains the net of a plan.

    Args:
        plan: what to train, from ``read_plan``.
        log: where the lines go.
        device: where to train.
        signals: what was asked for by signals; None: nothing ever is.
        teacher_cache: whether what frozen layers answer is remembered: auto, off, memory or disk.
        exact_sums: whether convolutions and inner products sum in float64 on the way forward, so
            that near ties fall as in the original.
        gradient_shares: every how many iterations the terms' shares in the student's gradient are
            logged; 0: never.

    Attributes:
        net: the train net; ``test_nets`` share its weights.
        iter: the number of updates done.
        current_step: how many steps the learning rate policy has taken.
        snapshots: the paths of the last snapshot's weights and state.
        stopped: whether a signal ended the training early.
        models: what a snapshot's files of weights hold.

    Raises:
        CaffeKDError: a setting, net or weights file is wrong.
    """

    def __init__(
        self,
        plan: Plan,
        log: Log,
        device: torch.device | None = None,
        signals: SignalActions | None = None,
        teacher_cache: str = "auto",
        exact_sums: bool = False,
        gradient_shares: int = 0,
    ) -> None:
        self.plan = plan
        self.param = plan.solver
        self.log = log
        self.device = device or torch.device("cpu")
        self.iter = 0
        self.current_step = 0
        self.snapshots: tuple[Path, Path] | None = None
        self._restored_losses: list[float] = []  # for the first step() after a restore
        self._signals = signals
        self._cache_mode = teacher_cache
        self._cache: TeacherCache | None = None
        self._cache_decided = False
        self._stages: dict[str, int] = {}  # of the schedules, as last told
        self.stopped = False
        self._losses: deque[float] = deque(maxlen=self.param.average_loss)
        self._timer = time.perf_counter()
        self._timed_iter = 0
        for warning in lr_policy.check(self.param, plan.where("lr_policy")):
            log.warning(warning)
        self._seed()
        for note in plan.notes:
            log.info(note)
        build = partial(building.build, log=log, device=self.device, exact_sums=exact_sums)
        self.net = build(plan.train.param, pb.TRAIN, plan.train.file, "training net")
        building.check_students_come_first(self.net)
        self.test_nets = [
            build(test.param, pb.TEST, test.file, f"test net (#{i})")
            for i, test in enumerate(plan.tests)
        ]
        nets = [self.net, *self.test_nets]
        building.load_teachers(plan, nets, log)
        self._load_start()
        self._own, _ = snapshot.learned(self.net, plan.frozen_names)
        params = [(p.blob, p.lr_mult, p.decay_mult) for p in self._own]
        self.updater = Updater(self.param, params, plan.where("type"))
        self._max_norm: MaxNorm | None = None
        if self.param.HasField("max_norm"):
            self._max_norm = MaxNorm(self.param.max_norm, self._own, plan.where("max_norm"))
        for net in self.test_nets:
            net.share_weights(self.net)
        where = plan.where("ema")
        self._means = [MeanTeacher(name, ema, nets, where) for name, ema in plan.means.items()]
        self._start_means()
        self.models = snapshot.models(nets, plan)
        self._watch = Watch(plan, self.test_nets)
        self._debug: DebugInfo | None = None
        if self.param.debug_info:
            self._debug, *_ = [DebugInfo(net, log.info) for net in [self.net, *self.test_nets]]
        self._shares: GradientShares | None = None
        if gradient_shares:
            names = {layer.name for layer in plan.student.layer}
            blobs = [p.blob for p in self._own if p.layer.name in names]
            self._shares = GradientShares(self.net, blobs, gradient_shares, log.info)

    # ---- building

    def _seed(self) -> None:
        seed = self.param.random_seed
        if seed < 0:
            seed = torch.seed() % 2**63  # what random_seed can hold
            self.log.info(f"random_seed is not given; this run's is {seed}")
        torch.manual_seed(seed)

    def _load_start(self) -> None:
        """Give the layers the weights that the plan has them begin with."""
        plan = self.plan
        for student in plan.students:
            if student.path is not None:
                self.load_weights(student.path, student.name)
        for path in plan.student_weights:
            self.load_weights(path)
        building.inject(plan, self.net, self.log)
        building.report_new_layers(plan, self.net, self.log)

    def load_weights(self, path: str | Path, student: str | None = None) -> None:
        """Start from the weights of a file, in the layers of the same name, test nets' included.

        Args:
            path: the file.
            student: of several students, the one whose layers are meant.
        """
        self.log.info(f"Finetuning from {path}" + (f" (student '{student}')" if student else ""))
        self._forget_teacher()
        layers = read_weights(path)
        if student is not None:
            layers = building.prefixed(student, layers)
        copied = self.net.copy_weights(layers, str(path))
        for name in copied.ignored:
            self.log.info(f"Ignoring source layer {name}")
        if copied.misfit is not None:
            self.log.warning(f"{copied.misfit}. Training begins with what the fillers make")
        for net in self.test_nets:
            net.copy_weights(layers, str(path))

    def _start_means(self) -> None:
        for mean in self._means:
            mean.start()

    # ---- running

    def solve(self, state: str | Path | None = None) -> None:
        """Train to max_iter, with tests and snapshots on the way, and report the end.

        Args:
            state: a solverstate to go on from.

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
        on_snapshot = param.snapshot and self.iter % param.snapshot == 0
        if param.snapshot_after_train and not on_snapshot:
            self.snapshot()
        if self._cache is not None:
            log.info(self._cache.report())
        if self.stopped:
            log.info("Optimization stopped early.")
            return
        if not self._watch.ended:  # else the last test is done
            self._tell_end()
        log.info("Optimization Done.")

    def _tell_end(self) -> None:
        self._set_iteration()
        if self._displays():
            with torch.no_grad():
                loss = self.net()
            self._losses.append(0.0 if loss is None else float(loss))
            self.log.info(f"Iteration {self.iter}, loss = {self._smoothed():g}")
        if self._tests_now():
            self.test_all()

    def step(self, count: int) -> None:
        """Run ``count`` iterations.

        An iteration: test if it is time, sum the gradients of iter_size passes, display, update,
        obey signals, snapshot if it is time.
        """
        param = self.param
        stop_iter = self.iter + count
        self._losses.clear()
        self._losses.extend(self._restored_losses)
        self._restored_losses = []
        self._remember_teacher(stop_iter)
        if self.iter == 0:
            self._start_means()  # weights may have been loaded since
        self._timer, self._timed_iter = time.perf_counter(), self.iter
        while self.iter < stop_iter:
            self.updater.clear()
            step = lr_policy.next_step(param, self.iter, self.current_step)
            rate = lr_policy.learning_rate(param, self.iter, step)
            for net in [self.net, *self.test_nets]:
                net.context.rate = rate
            self._set_iteration()
            if self._tests_now() and (self.iter > 0 or param.test_initialization):
                self.test_all()
                if self.stopped or self._watch.ended:
                    return
            loss = self._forward_backward()
            self._losses.append(loss)
            display = self._displays()
            if display:
                self._display()
            self._take_step(step)
            if display:
                self.log.info(f"Iteration {self.iter}, lr = {rate:g}")
            self.log.progress(self.iter, param.max_iter, loss, rate)
            self._update(rate)
            self.iter += 1
            action = self._requested()
            due = param.snapshot and self.iter % param.snapshot == 0
            if due or action is Action.SNAPSHOT:
                # Failing to keep the result itself is an error; on the way it is not yet.
                (self.snapshot if self.iter >= param.max_iter else self._snapshot_on_the_way)()
            if action is Action.STOP:
                self.stopped = True
                return

    def _set_iteration(self) -> None:
        """Give what has a schedule its value of this iteration, and tell when a stage begins."""
        for net in [self.net, *self.test_nets]:
            net.set_iteration(self.iter)
        for name, points in self.net.schedules.items():
            stage = schedule.stage_at(points, self.iter)
            if self._stages.get(name) != stage:
                self._stages[name] = stage
                self.log.info(f"Schedule of {name}: {schedule.outlook(points, self.iter)}")

    def _remember_teacher(self, stop_iter: int) -> None:
        """Decide once, when all weights are there, whether frozen layers are remembered."""
        if self._cache_decided:
            return
        self._cache_decided = True
        batches = (max(stop_iter, self.param.max_iter) - self.iter) * self.param.iter_size
        folder = Path(f"{self.param.snapshot_prefix}.teacher_cache")
        moving = {name for mean in self._means for name in mean.layers}
        self._cache = remember(self.net, self._cache_mode, folder, batches, self.log.info, moving)

    def _forget_teacher(self) -> None:
        """Undo ``_remember_teacher``, because weights have changed."""
        self.net.running = self.net.steps
        self._cache, self._cache_decided = None, False

    def _forward_backward(self) -> float:
        """Add up the gradients of iter_size passes; return the mean loss."""
        if self._debug is not None:
            self._debug.showing = self._displays()
        if self._shares is not None:
            self._shares.begin(self.iter)
        total = 0.0
        for _ in range(self.param.iter_size):
            objective = self.net()
            if objective is None:
                continue  # a net without loss has nothing to learn, as in the original
            if objective.requires_grad:
                objective.backward(retain_graph=bool(self._shares and self._shares.measuring))
                if self._debug is not None:
                    self._debug.backward()
                if self._shares is not None:
                    self._shares.add()
            total += float(objective.detach())
        loss = total / self.param.iter_size
        if not math.isfinite(loss):
            self._stop_non_finite(loss)
        if self._shares is not None:
            self._shares.tell(self.iter)
        return loss

    def _stop_non_finite(self, loss: float) -> None:
        kept = "none yet" if self.snapshots is None else str(self.snapshots[1])
        raise NonFiniteLoss(
            f"the loss is {loss} in iteration {self.iter}: training stopped before this update. "
            f"Last snapshot: {kept}. Try a smaller base_lr (now {self.param.base_lr:g}), "
            "clip_gradients, or look for records and labels out of range"
        )

    def _take_step(self, step: int) -> None:
        if step != self.current_step and self.param.lr_policy == "multistep":
            self.log.info(f"MultiStep Status: Iteration {self.iter}, step = {step}")
        self.current_step = step

    def _update(self, rate: float) -> None:
        if self._debug is not None:
            self._debug.before_update()
        clipped = self.updater.apply(rate, self.iter)
        if self._max_norm is not None:
            self._max_norm.apply()
        for mean in self._means:
            mean.follow(self.iter + 1)
        if self._debug is not None:
            self._debug.after_update()
        if clipped is not None:
            norm, scale = clipped
            self.log.info(
                f"Gradient clipping: scaling down gradients (L2 norm {norm:g} > "
                f"{self.param.clip_gradients:g}) by scale factor {scale:g}"
            )

    def _requested(self) -> Action:
        return self._signals.requested() if self._signals else Action.NONE

    # ---- telling

    def _smoothed(self) -> float:
        """Return the mean loss of the last average_loss iterations of this step() call."""
        return sum(self._losses) / len(self._losses) if self._losses else 0.0

    def _displays(self) -> bool:
        """Whether this iteration is displayed."""
        return self.param.display > 0 and self.iter % self.param.display == 0

    def _display(self) -> None:
        elapsed = time.perf_counter() - self._timer
        per_second = (self.iter - self._timed_iter) / (elapsed or 1)
        self._timer, self._timed_iter = time.perf_counter(), self.iter
        self.log.info(
            f"Iteration {self.iter} ({per_second:g} iter/s, {elapsed:g}s/{self.param.display} "
            f"iters), loss = {self._smoothed():g}"
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
        results = []
        for index in range(len(self.test_nets)):
            if not self.stopped:
                results.append(self.test(index))
        if self.stopped:
            return results
        if self._watch.note(self.iter, results):
            self._writing_on_the_way("best snapshot", self._snapshot_best)
        if self._watch.ended:
            self.log.info(self._watch.reason())
        return results

    @torch.no_grad()
    def test(self, index: int) -> dict[str, list[float]]:
        """Run test_iter batches through a test net and log the mean of its outputs."""
        net = self.test_nets[index]
        self.log.info(f"Iteration {self.iter}, Testing net (#{index})")
        sums: dict[str, Tensor] = {}
        total_loss = 0.0
        batches = self.param.test_iter[index]
        for _ in range(batches):
            action = self._requested()
            if action is Action.SNAPSHOT:
                self.snapshot()
            elif action is Action.STOP:
                self.stopped = True
                self.log.info("Test interrupted.")
                return {}
            loss = net()
            if self.param.test_compute_loss and loss is not None:
                total_loss += float(loss)
            for name in net.outputs:
                value = net.blobs[name].flatten()
                sums[name] = sums[name] + value if name in sums else value
        if self.param.test_compute_loss:
            self.log.info(f"Test loss: {total_loss / max(1, batches):g}")
        means = {name: (total / batches).tolist() for name, total in sums.items()}
        for line in output_lines("Test", net, means):
            self.log.info(line)
        return means

    # ---- snapshots

    def snapshot(self) -> tuple[Path, Path]:
        """Write weights and state; return their paths."""
        hdf5 = self.param.snapshot_format == pb.SolverParameter.HDF5
        kind, ending = ("HDF5", ".h5") if hdf5 else ("binary proto", "")
        stem = f"{self.param.snapshot_prefix}_iter_{self.iter}"
        self.log.info(f"Snapshotting to {kind} file {stem}.caffemodel{ending}")
        self.log.info(f"Snapshotting solver state to {kind} file {stem}.solverstate{ending}")
        self.snapshots = snapshot.write(
            self.param,
            self.models,
            [self.net, *self.test_nets],
            self.updater,
            self.iter,
            self.current_step,
            list(self._losses),
            self._watch.kept,
        )
        return self.snapshots

    def newest_snapshot(self) -> tuple[Path, Path]:
        """Return the snapshot of this iteration, which is written if there is none yet."""
        name = f"{self.param.snapshot_prefix}_iter_{self.iter}."
        if self.snapshots is not None and str(self.snapshots[0]).startswith(name):
            return self.snapshots
        return self.snapshot()

    def _snapshot_best(self) -> None:
        path = snapshot.write_models(self.param, self.models, "best")
        kept = self._watch.kept["snapshot_best"]
        self.log.info(f"Best {kept.output} so far, {kept.value:g}; snapshotting to {path}")

    def _snapshot_on_the_way(self) -> None:
        self._writing_on_the_way("snapshot", self.snapshot)

    def _writing_on_the_way(self, what: str, write: Callable[[], object]) -> None:
        """Write something; if that fails, the training goes on and earlier snapshots stay."""
        try:
            write()
        except CaffeKDError as error:
            kept = "none" if self.snapshots is None else str(self.snapshots[1])
            self.log.error(f"No {what} of iteration {self.iter}: {error}. Last one: {kept}")

    def restore(self, path: str | Path) -> None:
        """Go on from a solverstate and the weights it names.

        Raises:
            SolverError: the snapshot belongs to another net or solver type.
            ParseError: a file is missing or damaged.
        """
        self.log.info(f"Resuming from {path}")
        self._forget_teacher()
        self.log.info("SGDSolver: restoring history")
        state, weights = snapshot.read(path, self.updater, self._own)
        self.net.load_weights(weights).check()
        for mean in self._means:
            snapshot.read_mean(mean.name, [self.net, *self.test_nets], weights)
        self.iter, self.current_step = state.iter, state.current_step
        self.snapshots = weights, Path(path)
        self._restore_exactly(resume.path_beside(Path(path)), weights)

    def _restore_exactly(self, path: Path, weights: Path) -> None:
        """Go on with data, random numbers and losses as they were, where a file tells them."""
        losses = None
        if path.is_file():
            losses = resume.read(path, weights, [self.net, *self.test_nets], self._watch.kept)
            reason = f"{path} belongs to other weights"
        else:
            reason = f"there is no {path}"
        if losses is None:
            self.log.warning(f"The data starts over, as in the original Caffe: {reason}")
        else:
            self.log.info(f"Data and random numbers go on as told by {path}")
            self._restored_losses = losses
