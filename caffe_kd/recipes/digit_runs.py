"""The runs of an experiment on digits: each is trained in its own folder and evaluated.

A run's folder holds ``net.prototxt``, ``solver.prototxt`` and, if it distils,
``distiller.prototxt``, so that ``train_kd -solver FOLDER/solver.prototxt`` repeats the run; and the
log, the snapshots and ``run.json`` with the results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.files import write_atomically
from ..proto import caffe_pb2 as pb
from ..proto import text
from .run_files import Digits, Run, RunFiles, batch_for
from .runner import ExperimentRunner, RunResult, Training, digests

if TYPE_CHECKING:
    from ..net import Net
    from ..solver.solver import Solver

CLASSES = 10
LogitsAndLabels = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Score:
    """A net's errors on the test digits.

    Attributes:
        wrong: the number of errors in each class.
        tested: the number of digits of each class.
        seconds: the duration of the training; None if nothing was trained.
        bias: the shift of the biases that were corrected.
    """

    wrong: list[int]
    tested: list[int]
    seconds: float | None = None
    bias: float | None = None

    @property
    def errors(self) -> int:
        """The total number of errors."""
        return sum(self.wrong)


def count_errors(logits: np.ndarray, labels: np.ndarray) -> Score:
    """Count errors by class, from logits [N, 10] and labels [N]."""
    missed = labels[logits.argmax(1) != labels]
    return Score(
        np.bincount(missed, minlength=CLASSES).tolist(),
        np.bincount(labels, minlength=CLASSES).tolist(),
    )


class DigitRuns:
    """Trains and evaluates runs in the subfolders of one folder.

    Args:
        folder: the folder of the runs' folders.
        digits: the digits to train and test on.
        runs: the runs by name, teachers before their students.
        runner: runs the trainings.
        files: writes the runs' files; None: those of Hinton's experiment.
    """

    def __init__(
        self,
        folder: Path,
        digits: Digits,
        runs: dict[str, Run],
        runner: ExperimentRunner,
        files: RunFiles | None = None,
    ) -> None:
        self.folder = folder
        self.digits = digits
        self.runs = runs
        self.runner = runner
        self._files = files or RunFiles(digits, runs)

    def train(self, names: Sequence[str]) -> None:
        """Train some runs that are not done yet, and before them their teachers.

        Raises:
            Stopped: by Ctrl-C; finished runs are kept.
        """
        wanted = self._with_teachers(names)
        self.runner.run_all(
            [self._training(run) for run in self.runs.values() if run.name in wanted]
        )

    def _with_teachers(self, names: Sequence[str]) -> set[str]:
        found = set(names)
        for name in names:
            found |= self._with_teachers(self.runs[name].teachers)
        return found

    def _training(self, run: Run) -> Training:
        folder = self.folder / run.name
        return Training(
            name=run.name,
            record=folder / "run.json",
            inputs=partial(self._inputs, run),
            prepare=partial(self._prepare, run),
            needs=[self._training(self.runs[name]) for name in run.teachers],
            measure=partial(self._measure, run),
            log=folder / "train.log",
            cost=self._files.cost(run),
        )

    def _inputs(self, run: Run) -> dict[str, str]:
        """Return digests of a run's files and of its teachers' weights.

        The digits are identified by their file names, not by their folder.
        """
        source = self.digits.folder.resolve().as_posix()
        contents: dict[str, bytes | str] = {
            name: text.to_text(message).replace(source, "")
            for name, message in self._files.messages(run).items()
        }
        for name in run.teachers:
            weights = self.folder / name / self._files.weights_name(self.runs[name])
            if weights.is_file():
                contents[name] = weights.read_bytes()
        return digests(contents)

    def _prepare(self, run: Run) -> Path:
        folder = self.folder / run.name
        for name, message in self._files.messages(run).items():
            write_atomically(folder / name, text.to_text(message).encode())
        return folder / "solver.prototxt"

    def _measure(self, run: Run, trained: Solver) -> dict[str, Any]:
        score = count_errors(*self._outputs(run, trained.newest_snapshot()[0]))
        return {"wrong": score.wrong, "tested": score.tested}

    # ---- evaluation

    def result(self, run: Run) -> RunResult | None:
        """Return the result of a run, if it is done with these files."""
        return self.runner.result(self._training(run))

    def score(self, run: Run) -> Score:
        """Return the score of a finished run on the test digits."""
        result = self._done(run)
        return Score(**result.values, seconds=result.seconds)

    def _done(self, run: Run) -> RunResult:
        result = self.result(run)
        assert result is not None, run.name
        return result

    def _outputs(self, run: Run, weights: Path, stage: str = "") -> LogitsAndLabels:
        """Return logits [N, 10] and labels [N] of the test digits, or of a stage's digits."""
        import torch

        net = self._net(run, weights, stage)
        total = self.digits.validation if stage else self.digits.tested
        logits, labels = [], []
        with torch.no_grad():
            for _ in range(total // batch_for(total)):
                net()
                logits.append(net.blobs[self._files.logits].numpy().copy())
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

    def correct(self, run: Run, classes: Sequence[int], sign: int) -> Score:
        """Shift the output biases of some classes to minimise errors on the validation digits.

        The weights with the new biases are saved in ``corrected.caffemodel``.

        Args:
            run: a finished run.
            classes: the classes whose biases are shifted, all by the same value.
            sign: 1 to raise them, -1 to lower them.

        Returns:
            The score on the test digits, with the shift of the biases.
        """
        from ..proto.binary import write_weights

        trained, layer = self._done(run).weights, self._files.logits
        bias = best_shift(*self._outputs(run, trained, "validation"), classes, sign)
        net = self._net(run, trained)
        weights = net.weights()
        matrix, biases = weights[layer]
        biases = biases.copy()
        biases[list(classes)] += np.float32(bias)
        weights[layer] = [matrix, biases]
        path = self.folder / run.name / "corrected.caffemodel"
        write_weights(path, net.param, weights)
        return replace(count_errors(*self._outputs(run, path)), bias=bias)

    def score_together(self, runs: Sequence[Run]) -> Score:
        """Return the score of the mean of several runs' probabilities."""
        outputs = [self._outputs(run, self._done(run).weights) for run in runs]
        shares = np.mean([softmax(logits) for logits, _ in outputs], axis=0)
        return count_errors(shares, outputs[0][1])


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities [N, C] in float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    shares: np.ndarray = powers / powers.sum(1, keepdims=True)
    return shares


def best_shift(
    logits: np.ndarray, labels: np.ndarray, classes: Sequence[int], sign: int, most: float = 20.0
) -> float:
    """Return the shift of the logits of some classes that gives the fewest errors.

    Of the shifts 0, 0.1, ..., ``most``, times ``sign``, it is the middle of the longest range of
    best ones.
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
