"""Runs trainings: skips finished ones, resumes stopped ones, and stores their results.

A training has a record, a JSON file beside its snapshots, with digests of its inputs. As long as
these are the same, a finished training is not repeated, and a stopped one is resumed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.files import write_atomically

if TYPE_CHECKING:
    from ..solver.run import RunOptions
    from ..solver.solver import Solver

RESUME_HINT = "Stopped; the same command resumes from here"


@dataclass(frozen=True)
class Training:
    """A training that a runner can do.

    Attributes:
        name: its name in messages.
        record: its JSON file, beside its snapshots.
        inputs: returns digests of what its result depends on, by name.
        prepare: writes its files and returns the solver's path.
        needs: the trainings that it learns from, which must be finished first.
        files: files that must exist besides the weights for it to be finished.
        measure: returns the values of its result, by name; called while the log is open.
        log: its log file; None: a new one beside the snapshots.
        owns_files: whether its snapshots may be deleted: those of other inputs at the start, and
            all but the last at the end.
        cost: its duration relative to others.
    """

    name: str
    record: Path
    inputs: Callable[[], dict[str, str]]
    prepare: Callable[[], Path]
    needs: Sequence[Training] = ()
    files: Sequence[Path] = ()
    measure: Callable[[Solver], dict[str, Any]] = lambda _: {}
    log: Path | None = None
    owns_files: bool = True
    cost: float = 1.0


@dataclass(frozen=True)
class RunResult:
    """The result of a training.

    Attributes:
        iteration: its last iteration.
        weights: its caffemodel.
        seconds: its duration, including the time before an interruption.
        values: the values measured at its end, by name.
        reused: whether it was finished before.
    """

    iteration: int
    weights: Path
    seconds: float
    values: dict[str, Any]
    reused: bool = False


class ExperimentRunner:
    """Runs trainings one after another; Caffe's log lines go to their log files only.

    Args:
        say: prints a line for the user.
        options: how each is run, except for its log and the snapshot to resume from.
    """

    def __init__(self, say: Callable[[str], None], options: RunOptions | None = None) -> None:
        self.say = say
        self._options = options

    def result(self, training: Training) -> RunResult | None:
        """Return the result of a training, if it is finished with its current inputs."""
        record = read_json(training.record)
        if "weights" not in record or not all(self.result(needed) for needed in training.needs):
            return None
        weights = training.record.parent / record["weights"]
        is_there = all(path.is_file() for path in (weights, *training.files))
        if record["inputs"] != training.inputs() or not is_there:
            return None
        return RunResult(record["iteration"], weights, record["seconds"], record["values"], True)

    def run_all(self, trainings: Sequence[Training]) -> None:
        """Run the unfinished trainings, and print a line with the time left after each.

        Raises:
            Stopped: by Ctrl-C; finished trainings are kept.
        """
        waiting = [training for training in trainings if self.result(training) is None]
        if len(waiting) < len(trainings):
            done = len(trainings) - len(waiting)
            self.say(f"{done} of {len(trainings)} runs are already done")
        left = TimeLeft(training.cost for training in waiting)
        for number, training in enumerate(waiting, 1):
            self.run_next(training, f"run {number} of {len(waiting)}: {training.name}", left)

    def run_next(self, training: Training, label: str, left: TimeLeft) -> RunResult:
        """Run one of several trainings, and print a line when it is finished.

        Args:
            training: the training, which is skipped if it is finished.
            label: a prefix of the line and the progress line.
            left: the time left for all; it is updated.
        """
        started = time.perf_counter()
        done = self.run(training, label)
        if done.reused:
            left.skip(training.cost)
            self.say(f"{label}: reused, as its inputs have not changed")
        else:
            left.spent(training.cost, time.perf_counter() - started)
            self.say(f"{label}: {as_time(done.seconds)}{left}")
        return done

    def run(self, training: Training, label: str = "") -> RunResult:
        """Run a training unless it is finished, from its newest snapshot if it was stopped.

        Args:
            training: the training.
            label: a prefix of its progress line; its name unless given.

        Raises:
            Stopped: by Ctrl-C; the same call resumes it.
            CaffeKDError: the training failed.
        """
        from ..solver.plan import read_plan
        from ..solver.run import RunOptions, train

        if (done := self.result(training)) is not None:
            return done
        plan = read_plan(training.prepare())
        prefix = Path(plan.solver.snapshot_prefix)
        record = self._begin(training, prefix)
        started, before = time.perf_counter(), record["seconds"]

        def finish(trained: Solver) -> None:
            record["seconds"] = before + time.perf_counter() - started
            record["values"] = training.measure(trained)
            record["iteration"] = trained.iter
            record["weights"] = trained.newest_snapshot()[0].name

        options = replace(
            self._options or RunOptions(),
            snapshot=newest_state(prefix),
            log=training.log,
            quiet=True,
            label=label or training.name,
            resume_hint=RESUME_HINT,
            at_end=finish,
        )
        try:
            train(plan, options)
        finally:
            if "weights" not in record:
                record["seconds"] = before + time.perf_counter() - started
            write_json(training.record, record)
        if training.owns_files:
            _delete_snapshots(prefix, training.record.parent / record["weights"])
        return RunResult(
            record["iteration"],
            training.record.parent / record["weights"],
            record["seconds"],
            record["values"],
        )

    def _begin(self, training: Training, prefix: Path) -> dict[str, Any]:
        """Write and return the record of a training that is started or resumed."""
        known, inputs = read_json(training.record), training.inputs()
        resumes = known.get("inputs") == inputs
        if training.owns_files and not resumes:
            _delete_snapshots(prefix)
            if training.log is not None:
                training.log.unlink(missing_ok=True)
        record = {"inputs": inputs, "seconds": known.get("seconds", 0.0) if resumes else 0.0}
        write_json(training.record, record)
        return record


class TimeLeft:
    """The time left for several trainings, estimated from those that are finished.

    Args:
        costs: the costs of all of them.
    """

    def __init__(self, costs: Iterable[float]) -> None:
        self._left = sum(costs)
        self._done = self._seconds = 0.0

    def spent(self, cost: float, seconds: float) -> None:
        """Count a finished training."""
        self._left -= cost
        self._done += cost
        self._seconds += seconds

    def skip(self, cost: float) -> None:
        """Skip a training that was finished before."""
        self._left -= cost

    def __str__(self) -> str:
        if not self._done or self._left <= 0:
            return ""
        return f"; about {as_time(self._seconds / self._done * self._left)} left"


def as_time(seconds: float) -> str:
    """Return a duration in seconds, or in minutes if it is long: ``40 s``, ``12 min``."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def newest_state(prefix: Path) -> Path | None:
    """Return a snapshot_prefix's solverstate of the latest iteration."""
    states: dict[int, Path] = {}
    for path in prefix.parent.glob("*_iter_*.solverstate*"):
        stem, _, rest = path.name.rpartition("_iter_")
        iteration = rest.removesuffix(".h5").removesuffix(".solverstate")
        if stem == prefix.name and iteration.isdecimal():
            states[int(iteration)] = path
    return states[max(states)] if states else None


def _delete_snapshots(prefix: Path, but: Path | None = None) -> None:
    for path in prefix.parent.glob(f"{prefix.name}_iter_*"):
        if path != but:
            path.unlink()


def digests(contents: Mapping[str, bytes | str]) -> dict[str, str]:
    """Return a digest of each content."""
    encoded = {k: v.encode() if isinstance(v, str) else v for k, v in contents.items()}
    return {name: hashlib.sha256(content).hexdigest() for name, content in encoded.items()}


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file; {} if it is missing or damaged, so that it is made again."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object to a file."""
    write_atomically(path, json.dumps(content, indent=1).encode())


def as_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows by column name as CSV; missing values are empty."""
    lines = io.StringIO()
    columns = dict.fromkeys(column for row in rows for column in row)
    writer = csv.DictWriter(lines, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return lines.getvalue()
