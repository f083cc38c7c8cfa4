"""Draws what a teacher knows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ..core.files import replacing
from ..figures.samples import (
    FRAME,
    TEXT,
    TRUE,
    WRONG,
    Sample,
    are_short,
    draw_image,
    new_figure,
    percent,
    short,
    softened_outputs,
    write_heading,
    write_text,
)
from .look import Knowledge

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100
MOST_ROWS = 10  # samples
MOST_NUMBERS = 12  # classes of a matrix with numbers in it
MOST_NAMES = 40  # classes of a matrix with their names


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
    names = [short(name) for name in names]
    figures = {
        "samples.png": softened_outputs(_evenly(knowledge.samples), names, temperatures),
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


def _evenly(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Return samples evenly from all classes, not too many for a figure."""
    if len(samples) <= MOST_ROWS:
        return samples
    chosen = np.linspace(0, len(samples) - 1, MOST_ROWS).round().astype(int)
    return [samples[i] for i in chosen]


# ---- similarity


def _draw_similarity(knowledge: Knowledge, names: Sequence[str]) -> Figure:
    count = knowledge.classes
    values = knowledge.similarity.copy()
    np.fill_diagonal(values, np.nan)
    size = min(12.0, max(6.5, 0.3 * count + 3))
    figure = new_figure(size + 1.2, size)
    title = f"What the teacher finds similar: its mean output at T = {knowledge.temperature:g}"
    write_heading(figure, title)
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
        write_text(
            axes, column, row, percent(float(value)), ha="center", va="center",
            fontsize=8.5, color="#777777" if own else "white" if dark else "black",
        )  # fmt: skip


# ---- disagreements


def _draw_disagreements(knowledge: Knowledge, names: Sequence[str]) -> Figure:
    samples = knowledge.disputed
    columns, width = (6, 2.0) if are_short(names) else (4, 3.0)
    rows = -(-len(samples) // columns)
    # In inches: a heading, and for each row an image with lines below it.
    heading, image, lines = 0.65, 1.75, 0.8
    figure = new_figure(width * columns, heading + (image + lines) * rows, arranged=False)
    height = figure.get_figheight()
    figure.subplots_adjust(
        0.01, lines / height, 0.99, 1 - heading / height, wspace=0.05, hspace=lines / image
    )
    which = "" if knowledge.disagreements == len(samples) else f"; the {len(samples)} surest"
    write_heading(
        figure,
        f"Where student and teacher differ: {knowledge.disagreements:,} of "
        f"{knowledge.total:,} samples{which}",
    )
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes, sample in zip(panels.flat, samples, strict=False):
        draw_image(axes, sample.image)
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
