"""A search's results as a table and a plot."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from ...core.files import replacing, write_atomically
from ...logs.plot import COLOURS, DPI, TEXT, house_style
from .space import is_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FEWEST_TRIALS = 4  # completed, for importances to be meaningful


def as_csv(trials: Sequence[FrozenTrial], names: Sequence[str], output: str) -> str:
    """Return one line for each trial; the value of a pruned trial is empty."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["trial", "state", output, "last_test", "tests", "seconds", *names])
    for trial in trials:
        value = trial.value if trial.state == TrialState.COMPLETE else None
        seconds = trial.user_attrs.get("seconds")
        tests = trial.intermediate_values
        writer.writerow(
            [
                trial.user_attrs["number"],
                trial.state.name,
                "" if value is None else f"{value:.6g}",
                f"{tests[max(tests)]:.6g}" if tests else "",
                len(tests),
                "" if seconds is None else f"{seconds:.1f}",
                *(f"{trial.params[name]:.6g}" for name in names),
            ]
        )
    return lines.getvalue()


def importances(study: optuna.Study, seed: int) -> dict[str, float]:
    """Return each setting's share in the variance of trials, by fANOVA; {} for too few trials."""
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(ended) < _FEWEST_TRIALS or len({t.value for t in ended}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def write(
    folder: Path,
    study: optuna.Study,
    trials: Sequence[FrozenTrial],
    names: Sequence[str],
    output: str,
    seed: int,
) -> None:
    """Write ``trials.csv`` and ``search.png``."""
    write_atomically(folder / "trials.csv", as_csv(trials, names, output).encode())
    _draw(folder / "search.png", study, trials, names, output, seed)


def _draw(
    path: Path,
    study: optuna.Study,
    trials: Sequence[FrozenTrial],
    names: Sequence[str],
    output: str,
    seed: int,
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ended = [t for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
    figure = Figure(figsize=(max(9.0, 2.6 * len(names)), 7.0), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.add_gridspec(2, 1)
    above = rows[0].subgridspec(1, 2, width_ratios=(2, 1))
    history, shares = figure.add_subplot(above[0]), figure.add_subplot(above[1])
    higher = study.direction.name == "MAXIMIZE"
    _draw_history(history, trials, ended, higher)
    history.set_ylabel(output, color=TEXT)
    span = _span([float(t.value or 0.0) for t in ended], higher)
    history.set_ylim(span)
    hidden = sum(not span[0] <= float(t.value or 0.0) <= span[1] for t in ended) if span else 0
    history.set_title(f"Trials ({hidden} far off, not shown)" if hidden else "Trials")
    _draw_importances(shares, importances(study, seed))
    below = rows[1].subgridspec(1, len(names))
    for index, name in enumerate(names):
        axes = figure.add_subplot(below[index])
        _draw_slice(axes, name, ended)
        axes.set_ylim(span)
        axes.set_ylabel(output if not index else "", color=TEXT)
    for axes in figure.axes:
        house_style(axes)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)


def _span(values: Sequence[float], higher: bool) -> tuple[float, float] | None:
    """Return the range of values to show: the good ones and most others; None: all."""
    if len(values) < _FEWEST_TRIALS:
        return None
    low, quarter, middle, most, high = np.quantile(values, (0, 0.25, 0.5, 0.75, 1))
    far = 4 * (most - quarter)
    if not far:
        return None
    if higher:
        low = max(low, middle - far)
    else:
        high = min(high, middle + far)
    margin = 0.06 * (high - low)
    return low - margin, high + margin


def _draw_history(
    axes: Axes, trials: Sequence[FrozenTrial], ended: Sequence[FrozenTrial], higher: bool
) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    numbers = [t.user_attrs["number"] for t in ended]
    values = [float(t.value or 0.0) for t in ended]
    axes.plot(numbers, values, "o", color=COLOURS[0], label="completed")
    best = [(max if higher else min)(values[: i + 1]) for i in range(len(values))]
    axes.plot(numbers, best, drawstyle="steps-post", color=COLOURS[1], label="best so far")
    pruned = [t for t in trials if t.state == TrialState.PRUNED]
    for trial in pruned:  # their values are from earlier tests: mark the axis
        axes.plot(trial.user_attrs["number"], 0.02, "x", color="#999999",
                  transform=axes.get_xaxis_transform(), label="pruned" if trial is pruned[0]
                  else None)  # fmt: skip
    axes.legend()


def _draw_importances(axes: Axes, shares: dict[str, float]) -> None:
    axes.set_title("Importance (fANOVA)")
    if not shares:
        axes.text(0.5, 0.5, "too few trials", ha="center", transform=axes.transAxes)
        return
    names = list(reversed(shares))
    axes.barh(names, [shares[name] for name in names], color=COLOURS[2])
    axes.set_xlim(0, 1)


def _draw_slice(axes: Axes, name: str, ended: Sequence[FrozenTrial]) -> None:
    points: Any = axes.scatter(
        [t.params[name] for t in ended],
        [float(t.value or 0.0) for t in ended],
        c=[t.user_attrs["number"] for t in ended],
        cmap="Blues",
        edgecolors="#666666",
    )
    points.set_clim(0, None)
    axes.set_xlabel(name)
    if name == "batch_size":
        _label_batches(axes, sorted({t.params[name] for t in ended}))
    elif is_log(name):
        _label_log_axis(axes)


def _label_batches(axes: Axes, sizes: Sequence[int]) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())


def _label_log_axis(axes: Axes) -> None:
    """Show plain numbers, few enough for a narrow panel."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    steps = (1.0,) if high / low > 30 else (1.0, 2.0, 5.0)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
