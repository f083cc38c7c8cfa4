"""Trains the runs of an experiment in folders, goes on where one was stopped, and scores them.

A run's folder holds ``net.prototxt``, ``solver.prototxt`` and, where it distils,
``distiller.prototxt``, so that ``train_kd -solver FOLDER/solver.prototxt`` is the same run; beside
them the log, the snapshots and, at the end, ``result.json``.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.files import write_atomically
from ..proto import caffe_pb2 as pb
from ..proto import text
from .run_files import Digits, Run, RunFiles, batch_for

if TYPE_CHECKING:
    from ..net import Net

CLASSES = 10
Answers = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Result:
    """What came out of a run.

    Attributes:
        wrong: how many digits of each class it got wrong.
        tested: how many there are of each class.
        seconds: how long the training took; None where another program has trained it.
        bias: what was added to the biases that were corrected.
    """

    wrong: list[int]
    tested: list[int]
    seconds: float | None = None
    bias: float | None = None

    @property
    def errors(self) -> int:
        """How many digits it got wrong."""
        return sum(self.wrong)


def count_errors(logits: np.ndarray, labels: np.ndarray) -> Result:
    """Count errors by class, from logits [N, 10] and labels [N]."""
    missed = labels[logits.argmax(1) != labels]
    return Result(
        np.bincount(missed, minlength=CLASSES).tolist(),
        np.bincount(labels, minlength=CLASSES).tolist(),
    )


class Workshop:
    """Trains and scores runs in the folders below one folder.

    Args:
        folder: where the runs' folders are.
        digits: what they are trained and tested on.
        runs: the runs by name, in an order in which teachers come first.
        say: is given each sentence about what happens.
        files: makes the runs' files; None: those of Hinton's experiment.
    """

    def __init__(
        self,
        folder: Path,
        digits: Digits,
        runs: dict[str, Run],
        say: Callable[[str], None],
        files: RunFiles | None = None,
    ) -> None:
        self.folder = folder
        self.digits = digits
        self.runs = runs
        self._files = files or RunFiles(digits, runs)
        self._say = say

    def weights(self, run: Run) -> Path:
        """Return where the weights of a run are when it is done."""
        return self.folder / run.name / self._files.weights_name(run)

    def is_done(self, run: Run) -> bool:
        """Whether a run, and those it learns from, have been trained with these very files."""
        return (
            all(self.is_done(self.runs[name]) for name in run.teachers)
            and _read_json(self.folder / run.name / "run.json") == self._identity(run)
            and self.weights(run).is_file()
        )

    def _identity(self, run: Run) -> dict[str, str]:
        """Return what a run's result depends on: its files and its teachers' weights.

        The digits are known by the names of their files, wherever these are.
        """
        place = self.digits.folder.resolve().as_posix()
        contents = {
            name: text.to_text(message).replace(place, "")
            for name, message in self._files.messages(run).items()
        }
        identity = {k: hashlib.sha256(v.encode()).hexdigest() for k, v in contents.items()}
        for name in run.teachers:
            weights = self.weights(self.runs[name])
            if weights.is_file():
                identity[name] = hashlib.sha256(weights.read_bytes()).hexdigest()
        return identity

    # ---- training

    def train_all(self, names: Sequence[str]) -> None:
        """Train some runs, and before them those they learn from, telling the time left.

        Raises:
            Stopped: by Ctrl-C; what was done is kept.
        """
        wanted = [run for run in self.runs.values() if run.name in self._with_teachers(names)]
        waiting = [run for run in wanted if not self.is_done(run)]
        if len(waiting) < len(wanted):
            self._say(f"{len(wanted) - len(waiting)} of {len(wanted)} runs are done already")
        spent = cost = 0.0
        for number, run in enumerate(waiting):
            left = sum(self._files.cost(other) for other in waiting[number:])
            told = f"; about {spent / cost * left / 60:.0f} min left" if cost else ""
            self._say(f"run {number + 1} of {len(waiting)}: {run.name}{told}")
            started = time.perf_counter()
            self._train(run)
            spent += time.perf_counter() - started
            cost += self._files.cost(run)

    def _with_teachers(self, names: Sequence[str]) -> set[str]:
        found = set(names)
        for name in names:
            found |= self._with_teachers(self.runs[name].teachers)
        return found

    def _prepare(self, run: Run) -> None:
        """Write a run's files; what other files have made in its folder is removed."""
        folder, identity = self.folder / run.name, self._identity(run)
        if _read_json(folder / "run.json") != identity:
            for pattern in ("solver_iter_*", "train.log", "*.json", "corrected.caffemodel"):
                for path in folder.glob(pattern):
                    path.unlink()
        for name, message in self._files.messages(run).items():
            write_atomically(folder / name, text.to_text(message).encode())
        write_atomically(folder / "run.json", json.dumps(identity, indent=1).encode())

    def _train(self, run: Run) -> None:
        from ..solver.plan import read_plan
        from ..solver.run import RunOptions, train

        self._prepare(run)
        folder, last = self.folder / run.name, self.weights(run)
        state = _newest_state(folder)
        started = time.perf_counter()
        try:
            train(
                read_plan(folder / "solver.prototxt"),
                RunOptions(
                    snapshot=state,
                    log=folder / "train.log",
                    resume_hint="Stopped; the same command goes on from here",
                ),
            )
        finally:
            spent = (_read_json(folder / "spent.json") or {}).get("seconds", 0.0)
            spent += time.perf_counter() - started
            write_atomically(folder / "spent.json", json.dumps({"seconds": spent}).encode())
        for path in folder.glob("solver_iter_*"):
            if path != last:
                path.unlink()

    # ---- scoring

    def answers(self, run: Run, stage: str = "", weights: Path | None = None) -> Answers:
        """Return logits [N, 10] and labels [N] of the test digits, or of a stage's digits."""
        import torch

        net = self._net(run, weights or self.weights(run), stage)
        total = self.digits.validation if stage else self.digits.tested
        logits, labels = [], []
        with torch.no_grad():
            for _ in range(total // batch_for(total)):
                net()
                logits.append(net.blobs[self._files.answer].numpy().copy())
                labels.append(net.blobs["label"].numpy().astype(np.int64))
        return np.concatenate(logits), np.concatenate(labels)

    def _net(self, run: Run, weights: Path, stage: str = "") -> Net:
        """Return a run's net for testing, with weights."""
        from ..net import Net
        from ..proto.filter import filter_net

        state = pb.NetState(phase=pb.TEST, stage=[stage] if stage else [])
        net = Net(filter_net(self._files.messages(run)["net.prototxt"], state), pb.TEST)
        net.load_weights(weights)
        return net

    def score(self, run: Run) -> Result:
        """Return the errors of a trained run on the test digits, which are remembered."""
        folder = self.folder / run.name
        known = _read_json(folder / "result.json")
        if known is not None:
            return Result(**known)
        counted = count_errors(*self.answers(run))
        seconds = (_read_json(folder / "spent.json") or {}).get("seconds")
        result = Result(counted.wrong, counted.tested, seconds)
        write_atomically(folder / "result.json", json.dumps(asdict(result)).encode())
        return result

    def correct(self, run: Run, classes: Sequence[int], sign: int) -> Result:
        """Shift the answer's biases of some classes so that the validation digits come out best.

        The weights with the new biases are kept in ``corrected.caffemodel``.

        Args:
            run: a trained run.
            classes: whose biases change, all by the same.
            sign: 1: they are raised; -1: lowered.

        Returns:
            The errors on the test digits, and what was added to the biases.
        """
        from ..proto.binary import write_weights

        bias = best_shift(*self.answers(run, "validation"), classes, sign)
        net = self._net(run, self.weights(run))
        weights = net.weights()
        matrix, biases = weights[self._files.answer]
        biases = biases.copy()
        biases[list(classes)] += np.float32(bias)
        weights[self._files.answer] = [matrix, biases]
        path = self.folder / run.name / "corrected.caffemodel"
        write_weights(path, net.param, weights)
        counted = count_errors(*self.answers(run, weights=path))
        return Result(counted.wrong, counted.tested, None, bias)

    def score_together(self, runs: Sequence[Run]) -> Result:
        """Return the errors of the mean of several runs' probabilities on the test digits."""
        answers = [self.answers(run) for run in runs]
        shares = np.mean([softmax(logits) for logits, _ in answers], axis=0)
        return count_errors(shares, answers[0][1])


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities [N, C] in float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    shares: np.ndarray = powers / powers.sum(1, keepdims=True)
    return shares


def best_shift(
    logits: np.ndarray, labels: np.ndarray, classes: Sequence[int], sign: int, most: float = 20.0
) -> float:
    """Return what added to the logits of some classes makes the fewest errors.

    Of the shifts 0, 0.1, ..., ``most``, times ``sign``, it is the middle of the longest row of
    those that are best.
    """
    steps = np.arange(round(most * 10) + 1)
    errors = np.empty(len(steps), np.int64)
    for step in steps:
        shifted = logits.copy()
        shifted[:, list(classes)] += sign * step / 10
        errors[step] = (shifted.argmax(1) != labels).sum()
    best = np.flatnonzero(errors == errors.min())
    rows = np.split(best, np.flatnonzero(np.diff(best) > 1) + 1)
    longest = max(rows, key=len)
    return sign * int(longest[len(longest) // 2]) / 10


def _newest_state(folder: Path) -> Path | None:
    states = folder.glob("solver_iter_*.solverstate")
    return max(states, key=lambda path: int(path.stem.rpartition("_")[2]), default=None)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent, or damaged: made anew
        return None
    return known if isinstance(known, dict) else None
