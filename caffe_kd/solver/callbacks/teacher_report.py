"""Logs teachers' and student's accuracy on the test data before the first iteration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...core.errors import CaffeKDError
from ..callback import Callback
from ..options import Options
from ..test_outputs import EvaluatedLogits, logits_on_tests

if TYPE_CHECKING:
    from ..solver import Solver

_SAMPLES = 1000  # the most that are evaluated
_FEWEST = 100  # the fewest from which to conclude that a teacher only guesses
_DEVIATIONS = 3.0  # guessing exceeds chance by this many standard deviations in 1 of 740 cases


@dataclass
class _Score:
    right: int = 0
    loss: float = 0.0
    samples: int = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        self.right += int((logits.argmax(1) == labels).sum())
        self.loss += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        self.samples += len(labels)

    def __str__(self) -> str:
        return f"accuracy = {self.right / self.samples:g}, loss = {self.loss / self.samples:g}"

    def is_guessing(self, classes: int) -> bool:
        chance = self.samples / classes
        margin = _DEVIATIONS * math.sqrt(chance * (1 - 1 / classes))
        return self.samples >= _FEWEST and self.right <= chance + margin


class TeacherReport(Callback):
    """Evaluates each teacher and the student on the first samples of the first test net.

    Samples are read by number, and layers run in phase TEST, so that no random number is drawn and
    no data layer advances.

    Args:
        teachers: the teachers' names.
    """

    def __init__(self, teachers: Sequence[str]) -> None:
        self._teachers = teachers
        self._done = False

    def on_start(self, solver: Solver) -> None:
        """Log the results, once, before the first iteration."""
        if self._done or solver.iter > 0:
            return
        self._done = True
        try:
            _report(solver, self._teachers)
        except CaffeKDError as error:  # the training itself may still be possible
            solver.log.info(f"Teacher and student are not evaluated before training: {error}")


@torch.no_grad()
def _report(solver: Solver, teachers: Sequence[str]) -> None:
    found = logits_on_tests(solver, teachers)
    if found is None:
        return
    scores = _scores(found, solver.param.test_iter[0])
    if scores is None:
        return
    count = scores["student"].samples
    # The teachers first: they are what the line is for.
    order = [*(who for who in scores if who != "student"), "student"]
    results = "; ".join(f"{who}: {scores[who]}" for who in order)
    solver.log.info(f"Before training, on {count} test samples: {results}")
    for who in order[:-1]:
        if scores[who].is_guessing(found.classes):
            solver.log.warning(
                f"{who} is right on {scores[who].right} of {count} test samples, no better than a "
                f"guess among {found.classes} classes. Likely causes: different preprocessing than "
                "in its training (scale, mean, BGR or RGB), a different order of classes, or the "
                "weights of a different net"
            )


def _scores(found: EvaluatedLogits, batches: int) -> dict[str, _Score] | None:
    most = min(found.samples, found.batch * batches, max(found.batch, _SAMPLES))
    scores = {who: _Score() for who in found.paths}
    for start in range(0, most - found.batch + 1, found.batch):
        labels, logits, _ = found.batch_from(start)
        if not 0 <= int(labels.min()) <= int(labels.max()) < found.classes:
            return None
        for who, values in logits.items():
            scores[who].add(values, labels)
    return scores if scores["student"].samples else None


def build(solver: Solver, options: Options) -> Iterator[Callback]:
    """Yield the callback if the solver has trained teachers and a test net."""
    # debug_info would log these passes as if they were the training's.
    if solver.plan.teachers and solver.test_nets and not solver.param.debug_info:
        yield TeacherReport([teacher.name for teacher in solver.plan.teachers])
