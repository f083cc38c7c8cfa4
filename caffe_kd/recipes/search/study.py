"""The trials of a search: what is tried, what came out, and going on where it was stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import optuna
from optuna.trial import FrozenTrial, TrialState

from ...core.errors import CaffeKDError, NonFinite
from ...net import Net
from ...proto import caffe_pb2 as pb
from ...solver.callback import Callback
from ...solver.callbacks.metric_monitor import MetricMonitor
from ...solver.frozen import find_frozen
from ...solver.options import Options
from ...solver.plan import TrainingPlan, read_plan
from ...solver.run import RunOptions, train
from ...solver.solver import Solver
from ..runner import RESUME_HINT, TimeLeft, as_time
from .space import Space, Values, told
from .target import SearchTarget, measured, write

_RANDOM_TRIALS = 8  # before the sampler goes by what it has seen; the first is the solver's own
_UNPRUNED_TRIALS, _UNPRUNED_TESTS = 4, 3  # before trials are held against the median of others
_DONE = (TrialState.COMPLETE, TrialState.PRUNED)


class Search:
    """Tries settings of a solver and remembers in a folder what came out.

    A trial is drawn by Optuna's TPE from the seed, its number and the trials before it, so that a
    search that was stopped goes on with the very trials it would have made.

    Args:
        folder: where everything goes; an earlier search there goes on.
        target: the solver.
        space: what is searched.
        seed: of the trials, and of the training where the solver has none.
        measure: the output of the test net by which trials are compared; None: an accuracy, else a
            loss.
        say: is given each sentence about what happens.

    Attributes:
        study: Optuna's.
        output: the output by which trials are compared.

    Raises:
        CaffeKDError: the folder holds another search.
    """

    def __init__(
        self,
        folder: Path,
        target: SearchTarget,
        space: Space,
        seed: int,
        measure: str | None,
        say: Callable[[str], None],
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder = folder
        self._target = target
        self._space = space
        self._seed = seed
        self._say = say
        self._gpu: str | None = None
        with TemporaryDirectory() as temporary:  # the folder may hold another search
            plan = self._plan(Path(temporary), space.own)
        net = Net(plan.tests[0].param, pb.TEST, plan.tests[0].file)
        self.output = measured(net, measure)
        self._sign = MetricMonitor(net, 0, self.output, lower=plan.solver.lower_is_better).sign
        self._cache = self._cache_mode(plan)
        self.study = self._open()

    def _cache_mode(self, plan: TrainingPlan) -> str:
        """Say where the teacher's answers are kept: on disk, for all trials, where they can be."""
        if not plan.teachers or plan.ema_teachers:
            return "auto"
        found = find_frozen(Net(plan.train.param, pb.TRAIN, plan.train.file))
        if isinstance(found, str):
            self._say(f"the teacher's answers are not remembered: {found}")
            return "off"
        return "disk"

    def _open(self) -> optuna.Study:
        from .database import open_study

        self.folder.mkdir(parents=True, exist_ok=True)
        pruner = optuna.pruners.MedianPruner(_UNPRUNED_TRIALS, _UNPRUNED_TESTS)
        path = self.folder / "search.db"
        study = open_study(path, self._space.ranges, self._sign > 0, pruner=pruner)
        about = {
            **self._target.digests(self._space.own),
            "ranges": self._space.about(),
            "output": self.output,
            "seed": self._seed,
        }
        before = study.user_attrs.get("about")
        if before is None:
            study.set_user_attr("about", about)
        elif before != about:
            known = before if isinstance(before, dict) else {}
            differing = ", ".join(k for k in about if known.get(k) != about[k]) or "solver"
            raise CaffeKDError(
                f"the folder holds a search with another {differing}: give -output a folder of its "
                "own, or remove this one",
                str(self.folder),
            )
        return study

    # ---- trials

    def done(self) -> list[FrozenTrial]:
        """Return the trials that have come to their end or were given up, in their order."""
        return self.study.get_trials(deepcopy=False, states=_DONE)

    def best(self) -> FrozenTrial | None:
        """Return the best trial that has come to its end, the first of equals."""
        ended = [t for t in self.done() if t.state == TrialState.COMPLETE]
        return max(ended, key=lambda t: self._sign * _value(t), default=None)

    def run(self, trials: int, gpu: str | None) -> None:
        """Make trials until there are so many, those of an earlier run included.

        Args:
            trials: how many.
            gpu: the CUDA device; None: the solver's choice.

        Raises:
            Stopped: by Ctrl-C; the trials made are kept.
        """
        self._gpu = gpu
        if before := len(self.done()):
            self._say(f"{min(before, trials)} of {trials} trials are done already")
        left = TimeLeft([1.0] * (trials - before))
        for number in range(before + 1, trials + 1):
            started = time.perf_counter()
            label = f"trial {number} of {trials}"
            outcome = self._make(number, label)
            spent = time.perf_counter() - started
            left.spent(1.0, spent)
            self._say(f"{label}: {outcome}, {as_time(spent)}{left}")

    def _make(self, number: int, label: str) -> str:
        """Make a trial; return its settings and what came out."""
        done = number - 1
        self.study.sampler = optuna.samplers.TPESampler(
            seed=(self._seed + 1_000_003 * done) % 2**32, n_startup_trials=_RANDOM_TRIALS
        )
        if not done:
            self.study.enqueue_trial(self._space.own)
        trial = self.study.ask()
        try:
            values = self._space.draw(trial)
            trial.set_user_attr("number", number)
            started = time.perf_counter()
            value = self._train(trial, number, values, label)
            trial.set_user_attr("seconds", time.perf_counter() - started)
        except BaseException:
            self.study.tell(trial, state=TrialState.FAIL)
            raise
        if value is None:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, value)
        best = self.best()
        outcome = trial.user_attrs.get("fault") or (
            "given up: worse than the median" if value is None else f"{self.output} {value:g}"
        )
        if best is not None:
            outcome += f" (best: {_value(best):g}, trial {best.user_attrs['number']})"
        what = "the solver's own: " if not done else ""
        return f"{what}{told(values)}: {outcome}"

    def _plan(self, folder: Path, values: Values) -> TrainingPlan:
        plan = read_plan(write(folder, self._target.trial(values)))
        # The answers of a teacher are remembered by batches: those of one size share them.
        batch = f"batch_{values['batch_size']:g}" if "batch_size" in values else "batch"
        plan.solver.snapshot_prefix = str(self.folder / "teacher" / batch)
        if plan.solver.random_seed < 0:
            plan.solver.random_seed = self._seed
        return plan

    def _train(self, trial: optuna.Trial, number: int, values: Values, label: str) -> float | None:
        """Return what a trial ends with; None: it was given up, being bad."""
        folder = self.folder / "trials" / f"{number:03d}"
        plan = self._plan(folder, values)
        log = folder / "train.log"
        log.unlink(missing_ok=True)  # of a trial that was stopped
        tests = _Tests(trial, self.output)
        run = RunOptions(
            gpu=self._gpu,
            log=log,
            quiet=True,
            label=label,
            resume_hint=RESUME_HINT,
            options=Options(self._cache),
            callbacks=[tests],
            at_end=tests.test_at_end,
        )
        try:
            train(plan, run)
        except NonFinite as error:
            trial.set_user_attr("fault", f"given up: {error.message.partition(':')[0]}")
            return None
        except optuna.TrialPruned:
            return None
        if not math.isfinite(tests.value):
            trial.set_user_attr("fault", f"given up: {self.output} is {tests.value}")
            return None
        return tests.value


class _Tests(Callback):
    """Reports what a trial's tests give to Optuna, and ends a trial that is to be pruned.

    Args:
        trial: the trial.
        output: an output of the only test net.

    Attributes:
        value: the output in the last test.
        iteration: when that was.
    """

    def __init__(self, trial: optuna.Trial, output: str) -> None:
        self._trial = trial
        self._output = output
        self._count = 0
        self.value = math.nan
        self.iteration = -1

    def test_at_end(self, solver: Solver) -> None:
        """Test unless the last iteration was tested."""
        if self.iteration != solver.iter:
            solver.test_all()

    def on_test(self, solver: Solver, results: Sequence[dict[str, list[float]]]) -> None:
        """Report a test by its number: with other batch sizes a sample has other iterations."""
        (self.value,) = results[0][self._output]
        self.iteration = solver.iter
        self._count += 1
        self._trial.report(self.value, self._count)
        if solver.iter < solver.param.max_iter and self._trial.should_prune():
            raise optuna.TrialPruned


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value
