"""Draws what a teacher knows. Colours are Okabe and Ito's; nothing is shown by colour only."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ..core.files import replacing
from ..losses.soft_targets import softmax_with_temperature
from .look import Knowledge, Sample

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRUE, OTHER, STUDENT, WRONG = "#0072B2", "#E69F00", "#000000", "#D55E00"
TEXT, FRAME, GRID = "#333333", "#999999", "#E3E3E3"
DPI = 100
MOST_ROWS = 10  # samples
MOST_BARS = 10  # classes of a sample
MOST_LYING_BARS = 6
MOST_NUMBERS = 12  # classes of a matrix with numbers in it
MOST_NAMES = 40  # classes of a matrix with their names
MOST_LETTERS = 18  # of a class' name


def draw(
    knowledge: Knowledge, names: Sequence[str], temperatures: Sequence[float], folder: Path
) -> list[Path]:
    """Draw samples.png, similarity.png and, where both nets differ, disagreements.png.

    Args:
        knowledge: what to draw.
        names: the classes' names.
        temperatures: those that the samples' probabilities are shown at.
        folder: where to write; made if it is not there.

    Returns:
        The files.

    Raises:
        CaffeKDError: the folder cannot be written.
    """
    names = [_short(name) for name in names]
    figures = {
        "samples.png": _draw_samples(knowledge, names, temperatures),
        "similarity.png": _draw_similarity(knowledge, names),
    }
    if knowledge.disputed:
        figures["disagreements.png"] = _draw_disagreements(knowledge, names)
    with warnings.catch_warnings():
        # The font may lack the script of a name.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        for name, figure in figures.items():
            with replacing(folder / name) as temporary:
                figure.savefig(temporary, format="png", dpi=DPI)
    return [folder / name for name in figures]


def _short(name: str) -> str:
    name = "".join(letter if letter.isprintable() else "?" for letter in name)
    return name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 1]}…"


def _figure(width: float, height: float, arranged: bool = True) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), facecolor="white")
    if arranged:
        figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.06)
    FigureCanvasAgg(figure)
    return figure


def _heading(figure: Figure, title: str) -> None:
    figure.suptitle(title, fontsize=15, fontweight="bold", color=TEXT, x=0.01, ha="left", va="top")


def _image(axes: Axes, image: np.ndarray) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color(FRAME)


def _write(axes: Axes, x: float, y: float, text: str, **how: Any) -> None:
    """Write a text literally: a name may have $ in it."""
    axes.text(x, y, text, parse_math=False, **how)


def _are_short(names: Sequence[str]) -> bool:
    """Return whether names fit below columns."""
    return max(map(len, names)) <= 3


def percent(value: float) -> str:
    """Return a probability in percent with two significant digits."""
    hundredths = 100 * value
    if hundredths < 0.001:
        return "<0.001%"
    if hundredths >= 1:
        return f"{hundredths:.0f}%" if hundredths >= 10 else f"{hundredths:.1f}%"
    return f"{hundredths:.2g}%"


# ---- samples


def _draw_samples(
    knowledge: Knowledge, names: Sequence[str], temperatures: Sequence[float]
) -> Figure:
    samples = knowledge.samples
    if len(samples) > MOST_ROWS:  # evenly from all classes
        chosen = np.linspace(0, len(samples) - 1, MOST_ROWS).round().astype(int)
        samples = [samples[i] for i in chosen]
    rows, columns = len(samples), len(temperatures)
    figure = _figure(1.3 + 3.5 * columns, 1.2 + 1.15 * rows)
    _heading(figure, "The teacher's outputs, softened by a temperature T")
    panels = figure.subplots(rows, 1 + columns, squeeze=False, width_ratios=[1.1, *[3.5] * columns])
    for row, sample in zip(panels, samples, strict=True):
        _image(row[0], sample.image)
        row[0].set_ylabel(
            names[sample.label], rotation=0, ha="right", va="center", color=TEXT, parse_math=False
        )
        for axes, temperature in zip(row[1:], temperatures, strict=True):
            _draw_probabilities(axes, sample, names, temperature, with_names=axes is row[1])
    for column, temperature in enumerate(temperatures, 1):
        panels[0, column].set_title(f"T = {temperature:g}", color=TEXT, fontweight="bold")
        if _are_short(names):
            top = max(axes.dataLim.y1 for axes in panels[:, column])
            for axes in panels[:, column]:
                axes.set_ylim(0, 1.32 * top)  # room for the text
        else:
            end = max(axes.dataLim.x1 for axes in panels[:, column])
            for axes in panels[:, column]:
                axes.set_xlim(0, 1.05 * end)
    _samples_legend(figure, with_student=samples[0].student is not None)
    return figure


def _draw_probabilities(
    axes: Axes, sample: Sample, names: Sequence[str], temperature: float, with_names: bool
) -> None:
    """Draw a bar for each class: vertical, or horizontal where names are long."""
    upright = _are_short(names)
    count = min(MOST_BARS if upright else MOST_LYING_BARS, len(names))
    likeliest = [c for c in sample.teacher.topk(count).indices.tolist() if c != sample.label]
    shown = sorted([sample.label, *likeliest[: count - 1]])
    p = softmax_with_temperature(sample.teacher, temperature, 0)
    values = [float(p[c]) for c in shown]
    colours = [TRUE if c == sample.label else OTHER for c in shown]
    positions = np.arange(count)
    (axes.bar if upright else axes.barh)(positions, values, 0.75, color=colours)
    if sample.student is not None:
        own = softmax_with_temperature(sample.student, temperature, 0)
        marks = [float(own[c]) for c in shown]
        axes.plot(
            *((positions, marks) if upright else (marks, positions)),
            linestyle="none",
            marker="D",
            markersize=4.5,
            markerfacecolor="none",
            markeredgecolor=STUDENT,
        )
    of_classes, of_values = (axes.xaxis, axes.yaxis) if upright else (axes.yaxis, axes.xaxis)
    shown_names = [names[c] if upright or with_names else "" for c in shown]
    of_classes.set_ticks(positions, shown_names, fontsize=8, color=TEXT, parse_math=False)
    of_values.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    of_values.set_tick_params(labelsize=8, colors=TEXT)
    of_values.grid(True, color=GRID, linewidth=0.8)
    axes.tick_params(length=2)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FRAME)
    if upright:
        _write_greatest(axes, p, sample.label, names)
    else:
        axes.invert_yaxis()


def _write_greatest(axes: Axes, p: Tensor, label: int, names: Sequence[str]) -> None:
    others = sorted((c for c in range(len(p)) if c != label), key=lambda c: -float(p[c]))[:2]
    rest = ", ".join(f"{names[c]}: {percent(float(p[c]))}" for c in others)
    line = f"{names[label]}: {percent(float(p[label]))}; then {rest}"
    _write(
        axes, 0.99, 0.98, line, transform=axes.transAxes, ha="right", va="top",
        fontsize=8.5, color=TEXT,
    )  # fmt: skip


def _samples_legend(figure: Figure, with_student: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Patch | Line2D] = [
        Patch(color=TRUE, label="teacher, true class"),
        Patch(color=OTHER, label="teacher, other classes"),
    ]
    if with_student:
        handles.append(
            Line2D(
                [],
                [],
                linestyle="none",
                marker="D",
                markersize=5,
                markerfacecolor="none",
                markeredgecolor=STUDENT,
                label="student",
            )  # fmt: skip
        )
    figure.legend(
        handles=handles, loc="outside lower left", ncols=3, frameon=False, labelcolor=TEXT
    )


# ---- similarity


def _draw_similarity(knowledge: Knowledge, names: Sequence[str]) -> Figure:
    count = knowledge.classes
    values = knowledge.similarity.copy()
    np.fill_diagonal(values, np.nan)
    size = min(12.0, max(6.5, 0.3 * count + 3))
    figure = _figure(size + 1.2, size)
    title = f"What the teacher finds similar: its mean output at T = {knowledge.temperature:g}"
    _heading(figure, title)
    axes = figure.subplots()
    from matplotlib import colormaps

    colours = colormaps["cividis"].with_extremes(bad="#F2F2F2")
    greatest = float(np.nanmax(values)) if np.isfinite(values).any() else 1.0
    image = axes.imshow(values, cmap=colours, vmin=0, vmax=greatest)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, format=lambda value, _: f"{100 * value:g}%")
    bar.set_label("mean probability of the other class", color=TEXT)
    bar.outline.set_edgecolor(FRAME)
    bar.ax.tick_params(colors=TEXT)
    axes.set_xlabel("the teacher's output", color=TEXT)
    axes.set_ylabel("true class", color=TEXT)
    if count <= MOST_NAMES:
        long = max(map(len, names)) > 3
        axes.set_xticks(
            range(count), names, rotation=90 if long else 0, color=TEXT, parse_math=False
        )
        axes.set_yticks(range(count), names, color=TEXT, parse_math=False)
    axes.tick_params(length=0, colors=TEXT)
    axes.spines[:].set_visible(False)
    if count <= MOST_NUMBERS:
        _write_numbers(axes, knowledge.similarity, greatest)
    return figure


def _write_numbers(axes: Axes, values: np.ndarray, greatest: float) -> None:
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value):
            continue
        own = row == column
        dark = not own and value < 0.55 * greatest
        _write(
            axes, column, row, percent(float(value)), ha="center", va="center",
            fontsize=8.5, color="#777777" if own else "white" if dark else "black",
        )  # fmt: skip


# ---- disagreements


def _draw_disagreements(knowledge: Knowledge, names: Sequence[str]) -> Figure:
    samples = knowledge.disputed
    columns, width = (6, 2.0) if _are_short(names) else (4, 3.0)
    rows = -(-len(samples) // columns)
    # In inches: a heading, and for each row an image with lines below it.
    heading, image, lines = 0.65, 1.75, 0.8
    figure = _figure(width * columns, heading + (image + lines) * rows, arranged=False)
    height = figure.get_figheight()
    figure.subplots_adjust(
        0.01, lines / height, 0.99, 1 - heading / height, wspace=0.05, hspace=lines / image
    )
    which = "" if knowledge.disagreements == len(samples) else f"; the {len(samples)} surest"
    _heading(
        figure,
        f"Where student and teacher differ: {knowledge.disagreements:,} of "
        f"{knowledge.total:,} samples{which}",
    )
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes, sample in zip(panels.flat, samples, strict=False):
        _image(axes, sample.image)
        texts = [(f"label {names[sample.label]}", TEXT)]
        outputs = [("teacher", sample.teacher), ("student", sample.student)]
        texts += [_prediction(who, z, sample.label, names) for who, z in outputs if z is not None]
        for index, (line, colour) in enumerate(texts):
            axes.annotate(
                line, (0.5, 0), xycoords="axes fraction", xytext=(0, -5 - 15 * index),
                textcoords="offset points", ha="center", va="top", fontsize=9.5, color=colour,
                parse_math=False,
            )  # fmt: skip
    for axes in panels.flat[len(samples) :]:
        axes.set_visible(False)
    return figure


def _prediction(who: str, logits: Tensor, label: int, names: Sequence[str]) -> tuple[str, str]:
    p = logits.softmax(0)
    predicted = int(p.argmax())
    sign, colour = ("✓", TRUE) if predicted == label else ("✗", WRONG)
    return f"{sign} {who} {names[predicted]} ({percent(float(p[predicted]))})", colour
