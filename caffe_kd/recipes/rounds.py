"""What the commands share that train again and again: one training, and a table of results."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cli import common
from ..core.errors import SolverError, UsageError

if TYPE_CHECKING:
    from ..solver.solver import Solver


class Table:
    """Results as a CSV file, a row for each training that is done.

    Args:
        path: the file; rows of an earlier run are read from it.
        keys: the columns that name a training.
    """

    def __init__(self, path: Path, keys: Sequence[str]) -> None:
        self.path = path
        self.keys = list(keys)
        self.rows: list[dict[str, str]] = []
        if path.exists():
            with open(path, newline="", encoding="utf-8") as file:
                self.rows = [row for row in csv.DictReader(file) if None not in row]

    def find(self, *names: object) -> Path | None:
        """Return the weights of a training, if it is done and they are there."""
        wanted = [str(name) for name in names]
        for row in self.rows:
            weights = Path(row.get("weights") or "")
            if [row.get(key) for key in self.keys] == wanted and weights.is_file():
                return weights
        return None

    def add(self, names: Sequence[object], done: Done) -> None:
        """Add the row of a training, and write the file."""
        from ..core.files import write_atomically

        row = dict(zip(self.keys, map(str, names), strict=True))
        self.rows = [r for r in self.rows if any(r.get(k) != row[k] for k in self.keys)]
        row |= {"iteration": str(done.iteration), "weights": str(done.weights)}
        self.rows.append(row | {name: f"{value:g}" for name, value in done.results.items()})
        columns = dict.fromkeys(column for row in self.rows for column in row)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(columns), restval="")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.path, text.getvalue().encode())

    def print(self) -> None:
        """Print the table."""
        columns = list(dict.fromkeys(column for row in self.rows for column in row))
        lines = [columns, *([row.get(c) or "" for c in columns] for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
        for line in lines:
            cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            print("  ".join(cells).rstrip())


@dataclass
class Done:
    """A training that is done: its weights, and what its last test gave, by output."""

    iteration: int
    weights: Path
    results: dict[str, float]


def read_solver(path: str) -> Any:
    """Read a solver and make the files it names findable from the working directory.

    Raises:
        CaffeKDError: the file is missing or wrong.
    """
    from ..core.files import find
    from ..proto import caffe_pb2 as pb
    from ..proto import text
    from ..proto.upgrade import Notes, upgrade_solver

    solver = upgrade_solver(text.read(path, pb.SolverParameter()), path, Notes())
    if not solver.net:
        raise SolverError("names no net, which is needed here", path)
    for field in ("net", "distiller_net"):
        if getattr(solver, field):
            setattr(solver, field, str(find(getattr(solver, field), path)))
    for entry in solver.teacher:
        for field in ("net", "weights"):
            if getattr(entry, field):
                setattr(entry, field, str(find(getattr(entry, field), path)))
    for entries in (solver.test_net, solver.weights):
        entries[:] = [str(find(entry, path)) for entry in entries]
    if not solver.snapshot_prefix:
        solver.snapshot_prefix = str(Path(path).with_suffix(""))
    elif os.path.isdir(solver.snapshot_prefix):
        solver.snapshot_prefix = str(Path(solver.snapshot_prefix) / Path(path).stem)
    return solver


def from_labels(solver: Any) -> None:
    """Take the teacher away: train_state's stage "distil" too, in which a student has no loss."""
    solver.ClearField("teacher")
    solver.ClearField("distiller_net")
    stages = [stage for stage in solver.train_state.stage if stage != "distil"]
    if solver.HasField("train_state"):
        solver.train_state.stage[:] = stages


def train_as(solver: Any, gpu: str | None, progress: bool | None) -> Done:
    """Train by a solver, from its newest snapshot if there is one.

    The solver is written to ``<snapshot_prefix>_solver.prototxt``, where it can be looked at.

    Raises:
        Stopped: a signal has ended it; run again, it goes on.
        CaffeKDError: the training cannot be done, or has nothing to learn from.
    """
    from ..proto import text
    from ..solver.plan import read_plan
    from ..solver.run import RunOptions, train

    path = Path(f"{solver.snapshot_prefix}_solver.prototxt")
    path.parent.mkdir(parents=True, exist_ok=True)
    text.write(path, solver)
    results: dict[str, float] = {}

    def test(trained: Solver) -> None:
        if not any(trained.net.loss_weights.values()):
            raise SolverError("trains a net without a loss: nothing was learnt", str(path))
        for index, means in enumerate(trained.test_all()):
            prefix = f"#{index}/" if index else ""
            for name, values in means.items():
                if len(values) == 1:
                    results[prefix + name] = values[0]

    trained = train(
        read_plan(path),
        RunOptions(
            gpu=gpu,
            snapshot=_newest(solver),
            progress=progress,
            at_end=test,
            resume_hint="Stopped; the same command goes on from here",
        ),
    )
    return Done(trained.iter, trained.newest_snapshot()[0], results)


def _newest(solver: Any) -> str | None:
    """Return the state of the latest iteration that the solver's prefix has."""
    prefix = Path(solver.snapshot_prefix)
    states: dict[int, Path] = {}
    for path in prefix.parent.glob("*_iter_*.solverstate*"):
        stem, _, rest = path.name.rpartition("_iter_")
        iteration = rest.removesuffix(".h5").removesuffix(".solverstate")
        if stem == prefix.name and iteration.isdecimal():
            states[int(iteration)] = path
    return str(states[max(states)]) if states else None


def count(text: str, name: str) -> int:
    """Return the number that a flag gives.

    Raises:
        UsageError: it is not a whole number above 0.
    """
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"-{name} must be a whole number above 0: {text}")
    return int(text)


def flags(parser: Any) -> None:
    """Add the flags that such commands share."""
    common.flag(parser, "output", metavar="FOLDER", help="put snapshots, logs and the table there")
    common.flag(parser, "gpu", metavar="N", help="the CUDA device to train on (default: the CPU)")
    parser.add_argument(
        "-no_progress", "--no_progress", action="store_true", help="no line of progress"
    )


def move(solver: Any, folder: str | None) -> None:
    """Move a solver's snapshots into a folder, if one is given."""
    if folder:
        solver.snapshot_prefix = str(Path(folder) / Path(solver.snapshot_prefix).name)
