"""The MNIST experiments of Hinton, Vinyals and Dean, arXiv 1503.02531, section 3."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

from ..core.files import write_atomically
from ..core.tables import text_table
from .digit_runs import DigitRuns, Score
from .run_files import Digits, Run
from .runner import ExperimentRunner, as_csv

PARTS = {
    "teacher": "784-1200-1200-10 with dropout, a limit on the weights and shifted digits",
    "alone": "784-800-800-10 on the labels",
    "distilled": "the same, from the teacher at T = 20, on unshifted digits",
    "few": "3 % of the digits, on the labels and from the teacher",
    "without_3": "from the teacher, without any 3",
    "only_7_8": "from the teacher, with only 7s and 8s",
    "temperature": "784-30-30-10 at several temperatures",
    "ensemble": "three teachers, and a student of their mean",
}
TEMPERATURES = (1.0, 2.5, 4.0, 8.0, 20.0)
SEEDS = (1, 2, 3)
_FEW = 0.03
# The paper has this experiment on speech: correct frames; with all of the data 58.9 %.
_OF_SPEECH = ("speech: 44.5 % right", "speech: 57.0 % right")
_NOT_7_8 = (0, 1, 2, 3, 4, 5, 6, 9)


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        part: the part of the experiment.
        title: the description of the training.
        published: the paper's figure.
        results: one for each seed.
        classes: the classes whose errors are shown separately.
    """

    part: str
    title: str
    published: str
    results: Sequence[Score]
    classes: tuple[int, ...] = ()


class HintonMnist:
    """The experiment: its runs, and the table of their results.

    Args:
        folder: the folder for all files.
        digits: the digits to use.
        say: prints a line for the user.
        quick: whether to use few passes and one seed, as a check that everything works.
    """

    def __init__(
        self, folder: Path, digits: Digits, say: Callable[[str], None], quick: bool = False
    ) -> None:
        self.folder = folder
        self._seeds = SEEDS[:1] if quick else SEEDS
        runs = self._runs(digits)
        if quick:
            runs = [replace(run, passes=max(10, run.passes // 5)) for run in runs]
        self.runs = {run.name: run for run in runs}
        self._digit_runs = DigitRuns(folder, digits, self.runs, ExperimentRunner(say))

    def _runs(self, digits: Digits) -> list[Run]:
        """Return all runs, teachers before their students."""
        few = max(1, round(_FEW * digits.train))
        teacher = Run("teacher", "teacher", passes=80)
        alone = Run("", "student", passes=20)
        one = Run("", "student", passes=20, teachers=("teacher",))
        careful = replace(one, solver="kd_sgd")
        small = replace(careful, net="small", passes=30)
        runs = [teacher]
        for s in self._seeds:
            runs += [
                replace(alone, name=f"alone_{s}", seed=s),
                replace(one, name=f"distilled_{s}", seed=s),
                replace(alone, name=f"few_alone_{s}", seed=s, passes=150, rate=0.05, count=few),
                replace(careful, name=f"few_{s}", seed=s, passes=150, rate=0.03, count=few),
                replace(alone, name=f"small_alone_{s}", seed=s, net="small", passes=30, rate=0.05),
            ]
            runs += [
                replace(small, name=f"small_t{t:g}_{s}", seed=s, temperature=t)
                for t in TEMPERATURES
            ]
        without = replace(careful, alpha=1.0, rate=0.04, is_tuned=True)
        runs += [
            replace(without, name="without_3", passes=20, leave_out=(3,)),
            replace(without, name="only_7_8", passes=40, leave_out=_NOT_7_8),
            replace(teacher, name="teacher_2", seed=2),
            replace(teacher, name="teacher_3", seed=3),
            replace(one, name="of_ensemble", teachers=("teacher", "teacher_2", "teacher_3")),
        ]
        return runs

    def names(self, part: str) -> list[str]:
        """Return the names of a part's runs."""
        begin = {
            "few": ("few_",),
            "temperature": ("small_",),
            "ensemble": ("teacher", "of_ensemble"),
        }.get(part, (part,))
        return [
            name
            for name in self.runs
            if name.startswith(begin) and (part != "teacher" or name == part)
        ]

    def train(self, parts: Sequence[str]) -> None:
        """Train the runs of some parts that are not done yet.

        Raises:
            Stopped: by Ctrl-C; finished runs are kept.
        """
        self._digit_runs.train([name for part in parts for name in self.names(part)])

    # ---- results

    def rows(self) -> list[Row]:
        """Return the rows of the table whose runs are all done."""
        rows = [
            self._row("teacher", "teacher", "67", "teacher"),
            self._row("alone", "student alone", "146", "alone_{}"),
            self._row("distilled", "student distilled, T = 20", "74", "distilled_{}"),
            self._row("few", "3 % of the digits, alone", _OF_SPEECH[0], "few_alone_{}"),
            self._row("few", "3 % of the digits, distilled", _OF_SPEECH[1], "few_{}"),
            *self._with_correction("without_3", "no 3s", ("206", "109"), (3,), 1),
            *self._with_correction("only_7_8", "only 7s and 8s", ("47.3 %", "13.2 %"), (7, 8), -1),
            self._row("temperature", "30-30 units, alone", "", "small_alone_{}"),
        ]
        for t in TEMPERATURES:
            published = "best" if t in (2.5, 4.0) else "worse"
            title = f"30-30 units, T = {t:g}"
            rows.append(self._row("temperature", title, published, f"small_t{t:g}_{{}}"))
        rows += [
            *self._ensemble(),
            self._row("ensemble", "student of the three", "", "of_ensemble"),
        ]
        return [row for row in rows if row.results]

    def _done(self, *names: str) -> list[Run]:
        """Return these runs if all are done, else none."""
        runs = [self.runs[name] for name in names]
        return runs if all(self._digit_runs.result(run) for run in runs) else []

    def _row(self, part: str, title: str, published: str, name: str) -> Row:
        names = dict.fromkeys(name.format(seed) for seed in self._seeds)
        runs = [run for each in names for run in self._done(each)]
        return Row(part, title, published, [self._digit_runs.score(run) for run in runs])

    def _with_correction(
        self, name: str, title: str, published: tuple[str, str], classes: tuple[int, ...], sign: int
    ) -> list[Row]:
        """Return the rows before and after correcting the biases of some classes."""
        rows = []
        for run in self._done(name):
            before, after = (
                self._digit_runs.score(run),
                self._digit_runs.correct(run, classes, sign),
            )
            corrected = f"{title}, bias {after.bias:+g}"
            rows.append(Row(name, title, published[0], [before], classes))
            rows.append(Row(name, corrected, published[1], [after], classes))
        return rows

    def _ensemble(self) -> list[Row]:
        rows = []
        if teachers := self._done("teacher", "teacher_2", "teacher_3"):
            each = [self._digit_runs.score(run) for run in teachers]
            together = self._digit_runs.score_together(teachers)
            rows.append(Row("ensemble", "three teachers, each", "", each))
            rows.append(Row("ensemble", "their probabilities' mean", "", [together]))
        return rows

    def write(self, rows: Sequence[Row]) -> None:
        """Write ``results.csv``, ``table.txt`` and, if its runs are done, ``temperature.png``."""
        write_atomically(self.folder / "results.csv", as_csv(csv_rows(rows)).encode())
        write_atomically(self.folder / "table.txt", (table(rows) + "\n").encode())
        curve = [
            (t, [result.errors for result in row.results])
            for t in TEMPERATURES
            for row in rows
            if row.title == f"30-30 units, T = {t:g}"
        ]
        alone = [r.errors for row in rows if row.title == "30-30 units, alone" for r in row.results]
        if curve:
            _draw(self.folder / "temperature.png", curve, alone)


def table(rows: Sequence[Row]) -> str:
    """Return the rows as lines of text, the paper's figure beside ours."""
    cells = [("", "errors", "of", "share", "seeds", "the paper")]
    for row in rows:
        errors = [result.errors for result in row.results]
        total = sum(row.results[0].tested)
        shown = f"{mean(errors):.0f}"
        if len(errors) > 1:
            shown = f"{mean(errors):.1f} ± {stdev(errors):.1f}"
        if row.classes:
            wrong = sum(row.results[0].wrong[c] for c in row.classes)
            known = sum(row.results[0].tested[c] for c in row.classes)
            shown += f" ({wrong} of the {known} {' and '.join(f'{c}s' for c in row.classes)})"
        seeds = ", ".join(map(str, errors)) if len(errors) > 1 else "1"
        share = f"{100 * mean(errors) / total:.2f} %"
        cells.append((row.title, shown, str(total), share, seeds, row.published or "-"))
    return "\n".join(text_table(cells, right=(1, 2, 3, 5)))


def csv_rows(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Return a row of ``results.csv`` for each result, with its errors by class."""
    return [
        {
            "part": row.part,
            "title": row.title,
            "number": number,
            "errors": r.errors,
            "tested": sum(r.tested),
            **{f"errors_{c}": wrong for c, wrong in enumerate(r.wrong)},
            "bias": "" if r.bias is None else r.bias,
            "seconds": "" if r.seconds is None else f"{r.seconds:.0f}",
            "published": row.published,
        }
        for row in rows
        for number, r in enumerate(row.results, 1)
    ]


def _draw(path: Path, curve: Sequence[tuple[float, list[int]]], alone: Sequence[int]) -> None:
    """Plot the errors of the small students over the temperature."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    temperatures = [t for t, _ in curve]
    for t, errors in curve:
        axes.plot([t] * len(errors), errors, "o", color="tab:blue", alpha=0.4)
    axes.plot(temperatures, [mean(e) for _, e in curve], color="tab:blue", label="distilled, mean")
    if alone:
        axes.axhline(mean(alone), color="tab:orange", label="on the labels alone, mean")
    axes.set_xscale("log")
    axes.set_xticks(temperatures, [f"{t:g}" for t in temperatures])
    axes.minorticks_off()
    axes.set_xlabel("temperature")
    axes.set_ylabel("errors on the test digits")
    axes.set_title("Students of 30-30 units")
    axes.legend()
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    write_atomically(path, stream.getvalue())
