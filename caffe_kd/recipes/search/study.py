"""The trials of a search: their settings and results, and resuming a search."""

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
from .space import Space, Values, describe
from .target import SearchTarget, measured, write

_RANDOM_TRIALS = 8  # before the sampler uses earlier results; the first is the solver's own
_UNPRUNED_TRIALS, _UNPRUNED_TESTS = 4, 3  # before trials are compared with the median of others
_DONE = (TrialState.COMPLETE, TrialState.PRUNED)


class Search:
    """Tries settings of a solver and stores the results in a folder.

    A trial is drawn by Optuna's TPE from the seed, its number and the trials before it, so that a
    resumed search makes the same trials as an uninterrupted one.

    Args:
        folder: the folder for all files; an earlier search there is resumed.
        target: the solver.
        space: the search space.
        seed: the seed of the trials, and of the training if the solver has none.
        measure: the output of the test net by which trials are compared; None: an accuracy, else a
            loss.
        say: prints a line for the user.

    Attributes:
        study: Optuna's study.
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
        """Return the trials' teacher_cache: on disk, if the teacher's outputs can be cached."""
        if not plan.teachers or plan.ema_teachers:
            return "auto"
        found = find_frozen(Net(plan.train.param, pb.TRAIN, plan.train.file))
        if isinstance(found, str):
            self._say(f"the teacher's outputs are not cached: {found}")
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
                f"the folder has a search with a different {differing}: give -output another "
                "folder, or remove this one",
                str(self.folder),
            )
        return study

    # ---- trials

    def done(self) -> list[FrozenTrial]:
        """Return the trials that were completed or pruned, in order."""
        return self.study.get_trials(deepcopy=False, states=_DONE)

    def best(self) -> FrozenTrial | None:
        """Return the best completed trial, the first of equals."""
        ended = [t for t in self.done() if t.state == TrialState.COMPLETE]
        return max(ended, key=lambda t: self._sign * _value(t), default=None)

    def run(self, trials: int, gpu: str | None) -> None:
        """Run trials up to a number, including those of an earlier run.

        Args:
            trials: the number of trials.
            gpu: the CUDA device; None: as the solver says.

        Raises:
            Stopped: by Ctrl-C; finished trials are kept.
        """
        self._gpu = gpu
        if before := len(self.done()):
            self._say(f"{min(before, trials)} of {trials} trials are already done")
        left = TimeLeft([1.0] * (trials - before))
        for number in range(before + 1, trials + 1):
            started = time.perf_counter()
            label = f"trial {number} of {trials}"
            outcome = self._make(number, label)
            spent = time.perf_counter() - started
            left.spent(1.0, spent)
            self._say(f"{label}: {outcome}, {as_time(spent)}{left}")

    def _make(self, number: int, label: str) -> str:
        """Run a trial; return its settings and result as text."""
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
            "pruned: worse than the median" if value is None else f"{self.output} {value:g}"
        )
        if best is not None:
            outcome += f" (best: {_value(best):g}, trial {best.user_attrs['number']})"
        what = "the solver's own: " if not done else ""
        return f"{what}{describe(values)}: {outcome}"

    def _plan(self, folder: Path, values: Values) -> TrainingPlan:
        plan = read_plan(write(folder, self._target.trial(values)))
        # A teacher's outputs are cached by batches: trials with the same batch size share them.
        batch = f"batch_{values['batch_size']:g}" if "batch_size" in values else "batch"
        plan.solver.snapshot_prefix = str(self.folder / "teacher" / batch)
        if plan.solver.random_seed < 0:
            plan.solver.random_seed = self._seed
        return plan

    def _train(self, trial: optuna.Trial, number: int, values: Values, label: str) -> float | None:
        """Return a trial's final value; None if it was pruned."""
        folder = self.folder / "trials" / f"{number:03d}"
        plan = self._plan(folder, values)
        log = folder / "train.log"
        log.unlink(missing_ok=True)  # of an interrupted trial
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
            trial.set_user_attr("fault", f"failed: {error.message.partition(':')[0]}")
            return None
        except optuna.TrialPruned:
            return None
        if not math.isfinite(tests.value):
            trial.set_user_attr("fault", f"failed: {self.output} is {tests.value}")
            return None
        return tests.value


class _Tests(Callback):
    """Reports the results of a trial's tests to Optuna, and ends a trial that should be pruned.

    Args:
        trial: the trial.
        output: an output of the only test net.

    Attributes:
        value: the output in the last test.
        iteration: the iteration of the last test.
    """

    def __init__(self, trial: optuna.Trial, output: str) -> None:
        self._trial = trial
        self._output = output
        self._count = 0
        self.value = math.nan
        self.iteration = -1

    def test_at_end(self, solver: Solver) -> None:
        """Run a test unless the last iteration was tested."""
        if self.iteration != solver.iter:
            solver.test_all()

    def on_test(self, solver: Solver, results: Sequence[dict[str, list[float]]]) -> None:
        """Report a test by its number: iterations depend on the batch size."""
        (self.value,) = results[0][self._output]
        self.iteration = solver.iter
        self._count += 1
        self._trial.report(self.value, self._count)
        if solver.iter < solver.param.max_iter and self._trial.should_prune():
            raise optuna.TrialPruned


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value
