"""Parses training logs, ours and BVLC Caffe's, into rows of numbers.

    I1121 12:34:56.123456  4242 solver.cpp:88] Solving LeNet
    ... Iteration 100, Testing net (#0)
    ...     Test net output #0: accuracy = 0.98
    ...     Test net output #1: loss = 0.05 (* 1 = 0.05 loss)
    ... Iteration 100 (52.1 iter/s, 1.92s/100 iters), loss = 0.21      (before 2017: no parentheses)
    ...     Train net output #0: loss = 0.2 (* 1 = 0.2 loss)
    ... Iteration 100, lr = 0.01

and of ``-gradient_shares``, which Caffe does not have::

    ... Iteration 100, gradient shares in 5142 parameters of the student
    ...     Gradient share: kd/soft = 0.62 (norm 1.3)

A log may be incomplete, so all other lines are skipped.
"""

from __future__ import annotations

import calendar
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TextIO

from ..core.errors import DataError
from ..core.memory import growth_problem

_ROW_BYTES = 300  # of an iteration, as it is kept
_LINES_BETWEEN_CHECKS = 10_000
MAX_LINE = 4096  # characters; lines of interest are far shorter
BLOCK = 1 << 16
HALF_A_YEAR = timedelta(days=183)

# Newer glogs write the year too. Counts are bounded: a junk line must be cheap.
PREFIX = re.compile(
    r"[IWEF](\d{4})?(\d\d)(\d\d) (\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?[^\]]{0,200}\](.*)", re.ASCII
)
SOLVING = re.compile(r"Solving (.*)")
TESTING = re.compile(r"Iteration (\d{1,12}), Testing net(?: \(#(\d{1,3})\))?", re.ASCII)
ITERATION = re.compile(r"Iteration (\d{1,12})\b[^=]*\b(loss|lr) = (\S+)", re.ASCII)
SHARES = re.compile(r"Iteration (\d{1,12}), gradient shares", re.ASCII)
SHARE = re.compile(r"Gradient share: (\S+) = (\S+) \(norm (\S+)\)", re.ASCII)
OUTPUT = re.compile(
    r"(Train|Test) net output #(\d{1,12}): (\S+) = (\S+)(?: \(\* \S+ = (\S+) loss\))?", re.ASCII
)


@dataclass(slots=True)
class Row:
    """What the log says about one iteration.

    ``seconds`` count from the start of the run, None where the line has no time.
    """

    iteration: int
    seconds: float | None


@dataclass(slots=True)
class OutputRow(Row):
    """The outputs of a test; ``loss`` is the sum of those with a loss weight, weighted.

    ``seconds`` is when the test began, ``logged`` when its first output was logged.
    """

    loss: float | None = None
    outputs: dict[str, float] = field(default_factory=dict)
    logged: float | None = None


@dataclass(slots=True)
class TrainRow(Row):
    """The displayed loss, which the solver smooths over ``average_loss``, and the net's outputs.

    ``logged`` is when the first output was logged.
    """

    loss: float
    outputs: dict[str, float] = field(default_factory=dict)
    logged: float | None = None


@dataclass(slots=True)
class LearningRateRow(Row):
    """The rate that an iteration was trained with."""

    lr: float


@dataclass(slots=True)
class ShareRow(Row):
    """Each loss term's share in the student's gradient, and the norm of its own gradient."""

    shares: dict[str, float] = field(default_factory=dict)
    norms: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class TrainingLog:
    """A run as logged; all rows in order of their iterations.

    Attributes:
        net: the net's name, empty where it is not logged.
        train: the rows of the training net.
        tests: the rows of each test net, by its number.
        learning_rates: the rows of the learning rate.
        gradient_shares: the rows of the loss terms' shares in the gradient; often none.
    """

    net: str
    train: list[TrainRow]
    tests: dict[int, list[OutputRow]]
    learning_rates: list[LearningRateRow]
    gradient_shares: list[ShareRow] = field(default_factory=list)


def parse_log(path: str | Path) -> TrainingLog:
    """Read the training log of a run.

    Where a run was resumed, what it had logged beyond the iteration it was resumed from is
    dropped: the rows are the history of the resulting model. A run started again in the same log
    replaces the one before it.

    Raises:
        DataError: the file is missing, cannot be read, or holds no line of a training log.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # a folder; a pipe or a device might never end
        raise DataError("is not a regular file", str(path))
    try:
        year = datetime.fromtimestamp(path.stat().st_mtime).year
        reader = _Reader(year)
        with open(path, encoding=_encoding(path), errors="replace", newline="") as file:
            for number, line in enumerate(_lines(file)):
                reader.read(line)
                if number % _LINES_BETWEEN_CHECKS == 0:
                    problem = growth_problem(_ROW_BYTES * reader.row_count, path.stat().st_size)
                    if problem:
                        raise DataError(f"too many lines for their length: {problem}", str(path))
    except FileNotFoundError:
        raise DataError(f"no such file. Looked from {Path.cwd()}", str(path)) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", str(path)) from None
    log = reader.log()
    if not (log.train or log.tests or log.learning_rates):
        raise DataError(
            "is not a training log: expected lines such as 'Iteration 100, loss = 0.21', "
            "'Iteration 100, lr = 0.01' or 'Test net output #0: accuracy = 0.98', found none",
            str(path),
        )
    return log


def _encoding(path: Path) -> str:
    """PowerShell's redirection writes UTF-16 with a byte order mark."""
    with open(path, "rb") as file:
        return "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _lines(file: TextIO) -> Iterator[str]:
    """Yield the lines, cut at ``MAX_LINE``; a progress line's carriage returns end a line too."""
    rest = ""
    while block := file.read(BLOCK):
        *lines, rest = re.split(r"[\r\n]+", rest + block)
        for line in lines:
            yield line[:MAX_LINE]
        rest = rest[:MAX_LINE]
    # Where the log is cut off, the last word may be the beginning of a number: it doesn't count.
    yield rest.rpartition(" ")[0]


class _Reader:
    """Takes lines in order and keeps the rows of the run they belong to."""

    def __init__(self, year: int) -> None:
        self._net = ""
        self._train: dict[int, TrainRow] = {}
        self._tests: dict[int, dict[int, OutputRow]] = {}
        self._learning_rates: dict[int, LearningRateRow] = {}
        self._shares: dict[int, ShareRow] = {}
        self._clock = _Clock(year)
        self._start: timedelta | None = None  # of the run whose rows are kept
        self._last_start: timedelta | None = None
        self._latest = -1
        # The rows that the outputs below them belong to.
        self._train_row: TrainRow | None = None
        self._test_row: OutputRow | None = None
        self._share_row: ShareRow | None = None

    def read(self, line: str) -> None:
        prefix = PREFIX.search(line)
        if prefix:
            self._clock.read(prefix)
            line = prefix[8]
        line = line.strip()
        if solving := SOLVING.match(line):
            self._net = solving[1]
        if solving or self._last_start is None:
            self._last_start = self._clock.now
        if testing := TESTING.match(line):
            self._read_testing(testing)
        elif iteration := ITERATION.match(line):
            self._read_iteration(iteration)
        elif output := OUTPUT.match(line):
            self._read_output(output)
        elif shares := SHARES.match(line):
            self._read_shares(int(shares[1]))
        elif share := SHARE.match(line):
            self._read_share(share)

    @property
    def row_count(self) -> int:
        """How many rows are kept."""
        tables: list[dict[int, Any]] = [self._train, self._learning_rates, self._shares]
        return sum(len(rows) for rows in tables + list(self._tests.values()))

    def log(self) -> TrainingLog:
        # The rows are in order already: going back drops what is ahead.
        tests = {
            number: [row for row in rows.values() if row.outputs]
            for number, rows in sorted(self._tests.items())
        }
        return TrainingLog(
            net=self._net,
            train=list(self._train.values()),
            tests={number: rows for number, rows in tests.items() if rows},
            learning_rates=list(self._learning_rates.values()),
            gradient_shares=[row for row in self._shares.values() if row.shares],
        )

    def _read_testing(self, match: re.Match[str]) -> None:
        iteration = int(match[1])
        self._go_to(iteration)
        self._test_row = OutputRow(iteration, self._seconds())
        self._tests.setdefault(int(match[2] or 0), {})[iteration] = self._test_row

    def _read_iteration(self, match: re.Match[str]) -> None:
        iteration, value = int(match[1]), _number(match[3])
        if value is None:
            return
        self._go_to(iteration)
        if match[2] == "loss":
            self._train_row = TrainRow(iteration, self._seconds(), value)
            self._train[iteration] = self._train_row
        else:
            row = LearningRateRow(iteration, self._seconds(), value)
            self._learning_rates[iteration] = row

    def _read_shares(self, iteration: int) -> None:
        self._go_to(iteration)
        self._share_row = self._shares[iteration] = ShareRow(iteration, self._seconds())

    def _read_share(self, match: re.Match[str]) -> None:
        share, norm = _number(match[2]), _number(match[3])
        if self._share_row is not None and share is not None and norm is not None:
            self._share_row.shares[match[1]] = share
            self._share_row.norms[match[1]] = norm

    def _read_output(self, match: re.Match[str]) -> None:
        row = self._train_row if match[1] == "Train" else self._test_row
        value = _number(match[4])
        if row is None or value is None:
            return
        if not row.outputs:
            row.logged = self._seconds()
        name = match[3]
        if name in row.outputs:  # a blob of several values has a line for each
            name = f"{name}#{match[2]}"
        row.outputs[name] = value
        weighted = _number(match[5]) if match[5] else None
        if weighted is not None and isinstance(row, OutputRow):
            row.loss = (row.loss or 0.0) + weighted

    def _go_to(self, iteration: int) -> None:
        """Drop what lies ahead when the log goes back: the run was resumed or started again."""
        if iteration < self._latest:
            tables: list[dict[int, Any]] = [self._train, self._learning_rates, self._shares]
            for rows in tables + list(self._tests.values()):
                while rows and next(reversed(rows)) >= iteration:
                    rows.popitem()
        if not (self._train or self._learning_rates or any(self._tests.values())):
            self._start = self._last_start
        self._latest = iteration

    def _seconds(self) -> float | None:
        if self._start is None or self._clock.now is None:
            return None
        return (self._clock.now - self._start).total_seconds()


class _Clock:
    """Reads the times of a log, whose lines name no year."""

    def __init__(self, year: int) -> None:
        self.now: timedelta | None = None  # since some moment before the log
        self._year = year
        self._before: datetime | None = None

    def read(self, prefix: re.Match[str]) -> None:
        month, day, hour, minute, second = (int(prefix[i]) for i in range(2, 7))
        fraction = int((prefix[7] or "").ljust(6, "0"))
        year = int(prefix[1]) if prefix[1] else self._year
        before = self._before
        try:
            if (month, day) == (2, 29) and not calendar.isleap(year):  # then it was another year
                before = before and before.replace(year=before.year + 2000 - year)
                year = 2000
            moment = datetime(year, month, day, hour, minute, second, fraction)
            if before and before - moment > HALF_A_YEAR:  # it is January
                moment = moment.replace(year=year + 1)
        except ValueError:  # not a time after all
            return
        self.now = (self.now or timedelta()) + (moment - (before or moment))
        self._before = moment
        self._year = moment.year


def _number(text: str) -> float | None:
    """The value of a printed number, nan and inf as C libraries spell them included."""
    try:
        return float(text)
    except ValueError:
        text = text.lower()
    if "nan" in text or "#ind" in text:  # -nan(ind), 1.#QNAN, -1.#IND
        return math.nan
    if "#inf" in text:
        return -math.inf if text.startswith("-") else math.inf
    return None
