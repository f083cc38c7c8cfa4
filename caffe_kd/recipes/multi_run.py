"""Code of the commands that run several trainings of a solver: their files and their table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import SolverError
from ..core.files import find, write_atomically
from ..core.tables import text_table
from ..proto import caffe_pb2 as pb
from ..proto import text
from ..proto.upgrade import Notes, upgrade_solver
from .runner import ExperimentRunner, TimeLeft, Training, as_csv

if TYPE_CHECKING:
    from ..solver.solver import Solver


class MultiRun:
    """Trainings by a user's solvers, and a CSV file with a row for each.

    Args:
        path: the CSV file.
        keys: the columns that identify a training.
        runner: runs the trainings.
        total: the number of trainings.
    """

    def __init__(
        self, path: Path, keys: Sequence[str], runner: ExperimentRunner, total: int
    ) -> None:
        self.path = path
        self._keys = keys
        self._runner = runner
        self._left = TimeLeft([1.0] * total)
        self._rows: list[dict[str, str]] = []

    def train(self, names: Sequence[object], solver: Any) -> Path:
        """Run a solver's training unless it is done, and return the weights.

        The solver is written to ``<snapshot_prefix>_solver.prototxt``, for reference.

        Raises:
            Stopped: by a signal; the same command resumes it.
            CaffeKDError: the training cannot be done, or has nothing to learn from.
        """
        row = dict(zip(self._keys, map(str, names), strict=True))
        prefix = solver.snapshot_prefix
        training = Training(
            name=Path(prefix).name,
            record=Path(f"{prefix}_run.json"),
            inputs=lambda: row,
            prepare=partial(_write, solver),
            measure=last_test,
            owns_files=False,
        )
        label = ", ".join(f"{key} {name}" for key, name in row.items())
        done = self._runner.run_next(training, label, self._left)
        columns = {"iteration": str(done.iteration), "weights": str(done.weights)}
        values = {name: f"{value:g}" for name, value in done.values.items()}
        self._rows.append(row | columns | values)
        write_atomically(self.path, as_csv(self._rows).encode())
        return done.weights

    def table(self) -> str:
        """Return the rows as lines of text."""
        columns = list(dict.fromkeys(column for row in self._rows for column in row))
        cells = [columns, *([row.get(c, "") for c in columns] for row in self._rows)]
        return "\n".join(text_table(cells, right=()))


def _write(solver: Any) -> Path:
    path = Path(f"{solver.snapshot_prefix}_solver.prototxt")
    path.parent.mkdir(parents=True, exist_ok=True)
    text.write(path, solver)
    return path


def last_test(trained: Solver) -> dict[str, float]:
    """Return the test nets' final outputs that have a single value."""
    if not any(trained.net.loss_weights.values()):
        raise SolverError(
            "trains a net without a loss: nothing was learned", str(trained.plan.file)
        )
    return {
        (f"#{index}/" if index else "") + name: values[0]
        for index, means in enumerate(trained.test_all())
        for name, values in means.items()
        if len(values) == 1
    }


def read_solver(path: str) -> Any:
    """Read a solver, with the paths in it relative to the working directory.

    Raises:
        CaffeKDError: the file is missing or wrong.
    """
    solver = upgrade_solver(text.read(path, pb.SolverParameter()), path, Notes())
    if not solver.net:
        raise SolverError("has no net, which is needed here", path)
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


def without_teacher(solver: Any) -> None:
    """Remove the teacher, and train_state's stage "distil", in which a student has no own loss."""
    solver.ClearField("teacher")
    solver.ClearField("distiller_net")
    stages = [stage for stage in solver.train_state.stage if stage != "distil"]
    if solver.HasField("train_state"):
        solver.train_state.stage[:] = stages


def move(solver: Any, folder: str | None) -> None:
    """Move a solver's snapshot_prefix into a folder, if one is given."""
    if folder:
        solver.snapshot_prefix = str(Path(folder) / Path(solver.snapshot_prefix).name)
