"""The methods of ``prototxt/distillation`` on one teacher and one student, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ..core import examples
from ..core.files import replacing, write_atomically
from ..core.tables import text_table
from ..logs.plot import COLOURS, DPI, house_style
from ..proto import caffe_pb2 as pb
from ..proto import schedule, text
from .digit_runs import DigitRuns, Score
from .run_files import Digits, Run, RunFiles, batch_for
from .runner import ExperimentRunner, as_csv

FOLDER = "distillation"
ALONE = "alone"
TEACHERS = {"teacher": "teacher_solver", "second_teacher": "second_teacher_solver"}
_STUDENT, _TEACHER = "student_train_test.prototxt", "teacher_train_test.prototxt"


@cache
def methods() -> dict[str, str]:
    """Return the methods that are trained on the common pair, and their losses.

    These are the solvers that train ``student_train_test.prototxt`` with a distiller: from the
    teachers in TEACHERS, from several of them, from a mean of the student, or from no teacher.
    """
    found = {}
    for path in sorted(examples.folder(FOLDER).glob("*_solver.prototxt")):
        solver = text.read(path, pb.SolverParameter())
        weights = {f"output/{FOLDER}/{name}_iter_{solver.max_iter}.caffemodel" for name in TEACHERS}
        of_pair = all(
            entry.HasField("ema") or (entry.net == _TEACHER and entry.weights in weights)
            for entry in solver.teacher
        )
        if solver.net == _STUDENT and solver.distiller_net and of_pair:
            net = text.read(path.parent / solver.distiller_net, pb.NetParameter())
            losses = dict.fromkeys(x.type for x in net.layer if x.type.endswith("Loss"))
            found[path.stem.removesuffix("_solver")] = ", ".join(losses)
    return found


class MethodFiles(RunFiles):
    """Creates the files of methods' runs; a run's ``net`` is teacher, student, or the method.

    Args:
        digits: the digits to train and test on.
        runs: the runs by name.
        iterations: the iterations of each training; None: as in the examples.
    """

    examples = FOLDER
    logits = "ip2"

    def __init__(self, digits: Digits, runs: dict[str, Run], iterations: int | None) -> None:
        super().__init__(digits, runs)
        self._iterations = iterations

    def messages(self, run: Run) -> dict[str, Any]:
        """Return a run's files by name, as messages."""
        is_teacher = run.name in TEACHERS
        solver = self._solver_of(run)
        kind = "teacher" if is_teacher else "student"
        messages = {"net.prototxt": self.net(replace(run, net=kind)), "solver.prototxt": solver}
        if solver.HasField("distiller_net"):
            messages["distiller.prototxt"] = text.read(
                examples.folder(FOLDER) / solver.distiller_net, pb.NetParameter()
            )
            solver.distiller_net = "distiller.prototxt"
        own = solver.max_iter
        solver.max_iter = self._iterations or own
        solver.test_interval = solver.max_iter
        for layer in messages.get("distiller.prototxt", pb.NetParameter()).layer:
            schedule.stretch(layer, solver.max_iter / own)
        return messages

    def cost(self, run: Run) -> float:
        """Return the cost of a run: all are about equal."""
        return 1.0

    def _solver_of(self, run: Run) -> Any:
        name = TEACHERS.get(run.name) or f"{'teacher' if run.net == ALONE else run.net}_solver"
        solver = text.read(examples.folder(FOLDER) / f"{name}.prototxt", pb.SolverParameter())
        solver.net = "net.prototxt"
        solver.ClearField("snapshot_prefix")  # the default is the solver's folder
        solver.test_iter[:] = [self.digits.tested // batch_for(self.digits.tested)]
        if run.name not in TEACHERS:
            solver.random_seed = run.seed
        for entry in solver.teacher:
            if entry.HasField("ema"):
                entry.net = "net.prototxt"
                continue
            teacher = Path(entry.weights).name.partition("_iter_")[0]
            entry.net = f"../{teacher}/net.prototxt"
            entry.weights = f"../{teacher}/{self.weights_name(self.runs[teacher])}"
        return solver


@dataclass(frozen=True)
class Row:
    """The results of a method.

    Attributes:
        method: its name.
        losses: the types of its losses.
        results: one for each seed.
    """

    method: str
    losses: str
    results: Sequence[Score]

    @property
    def accuracies(self) -> list[float]:
        """The share of correct digits for each seed, in percent."""
        return [100 * (1 - r.errors / sum(r.tested)) for r in self.results]


class Comparison:
    """Trains a student by each method, with several seeds, and alone.

    Args:
        folder: the folder for all files.
        digits: the digits to train and test on.
        names: the methods.
        seeds: the number of seeds.
        iterations: the iterations of each training; None: as in the examples.
        count: how many training digits the students use, the first ones; None: all, as the
            teachers do.
        say: prints a line for the user.
    """

    def __init__(
        self,
        folder: Path,
        digits: Digits,
        names: Sequence[str],
        seeds: int,
        iterations: int | None,
        count: int | None,
        say: Callable[[str], None],
    ) -> None:
        self.folder = folder
        self._names = [ALONE, *names]
        self._seeds = range(1, seeds + 1)
        runs = {name: Run(name, "teacher", passes=1) for name in TEACHERS}
        for seed in self._seeds:  # seed by seed, for early results of all methods
            for name in self._names:
                run = Run(f"{name}_{seed}", name, passes=1, seed=seed, count=count)
                runs[run.name] = replace(run, teachers=_teachers(name))
        self.runs = runs
        files = MethodFiles(digits, runs, iterations)
        self._digit_runs = DigitRuns(folder, digits, runs, ExperimentRunner(say), files)

    def train(self) -> None:
        """Train the runs that are not done yet.

        Raises:
            Stopped: by Ctrl-C; finished runs are kept.
        """
        self._digit_runs.train([name for name in self.runs if name not in TEACHERS])

    def rows(self) -> list[Row]:
        """Return the rows of finished runs: the teachers, then the students, the best first."""
        losses = {ALONE: "the labels"} | methods()
        done = {n: r for n, r in self.runs.items() if self._digit_runs.result(r)}
        rows = [
            Row(name, "the labels", [self._digit_runs.score(done[name])])
            for name in TEACHERS
            if name in done
        ]
        students = []
        for name in self._names:
            runs = [done[f"{name}_{s}"] for s in self._seeds if f"{name}_{s}" in done]
            if runs:
                results = [self._digit_runs.score(run) for run in runs]
                students.append(Row(name, losses[name], results))
        students.sort(key=lambda row: -mean(row.accuracies))
        return rows + students

    def write(self, rows: Sequence[Row]) -> None:
        """Write ``results.csv``, ``table.txt`` and ``methods.png``."""
        write_atomically(self.folder / "results.csv", as_csv(csv_rows(rows)).encode())
        write_atomically(self.folder / "table.txt", (table(rows) + "\n").encode())
        _draw(self.folder / "methods.png", [r for r in rows if r.method not in TEACHERS])


@cache
def _teachers(method: str) -> tuple[str, ...]:
    """Return the teachers that a method learns from."""
    if method == ALONE:
        return ()
    path = examples.folder(FOLDER) / f"{method}_solver.prototxt"
    entries = text.read(path, pb.SolverParameter()).teacher
    names = [Path(e.weights).name.partition("_iter_")[0] for e in entries if e.weights]
    return tuple(names)


def table(rows: Sequence[Row]) -> str:
    """Return the rows as lines of text."""
    alone = next((mean(row.accuracies) for row in rows if row.method == ALONE), None)
    cells = [("method", "accuracy %", "to alone", "seeds", "seconds", "losses")]
    for row in rows:
        accuracy = f"{mean(row.accuracies):.2f}"
        if len(row.results) > 1:
            accuracy += f" ± {stdev(row.accuracies):.2f}"
        gain = ""
        if alone is not None and row.method not in (ALONE, *TEACHERS):
            gain = f"{mean(row.accuracies) - alone:+.2f}"
        seconds = [r.seconds for r in row.results if r.seconds is not None]
        spent = f"{mean(seconds):.0f}" if seconds else ""
        cells.append((row.method, accuracy, gain, str(len(row.results)), spent, row.losses))
    return "\n".join(text_table(cells, right=(1, 2, 3, 4)))


def csv_rows(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Return a row of ``results.csv`` for each training."""
    return [
        {
            "method": row.method,
            "losses": row.losses,
            "seed": seed,
            "errors": r.errors,
            "tested": sum(r.tested),
            "accuracy": f"{accuracy:.4f}",
            "seconds": "" if r.seconds is None else f"{r.seconds:.1f}",
        }
        for row in rows
        for seed, (r, accuracy) in enumerate(zip(row.results, row.accuracies, strict=True), 1)
    ]


def _draw(path: Path, rows: Sequence[Row]) -> None:
    """Plot each training as a point and each method's mean as a line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 1.5 + 0.3 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for height, row in enumerate(reversed(rows)):
        colour = COLOURS[1] if row.method == ALONE else COLOURS[0]
        axes.plot(row.accuracies, [height] * len(row.results), "o", color=colour, alpha=0.4)
        axes.plot(mean(row.accuracies), height, "|", color=colour, markersize=14, markeredgewidth=2)
        if row.method == ALONE:
            axes.axvline(mean(row.accuracies), color=colour, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(rows)), [row.method for row in reversed(rows)])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlabel("accuracy on the test digits, %; each seed, and their mean")
    axes.set_title("Distillation methods, and the student alone")
    house_style(axes, "x")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
