"""Samples beside nets' outputs. Colours are Okabe and Ito's; nothing is shown by colour only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ..layers.base import Layer
from ..layers.shared.sample_layer import ImageLayer
from ..losses.soft_targets import softmax_with_temperature

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRUE, OTHER, STUDENT, WRONG = "#0072B2", "#E69F00", "#000000", "#D55E00"
TEXT, FRAME, GRID = "#333333", "#999999", "#E3E3E3"
MOST_BARS = 10  # classes of a sample
MOST_LYING_BARS = 6
LEAST_WIDTH = 6.5  # in inches, that title and legend need
MOST_LETTERS = 18  # of a class' name


@dataclass
class Sample:
    """A sample and the nets' outputs for it.

    Attributes:
        image: its pixels before the net's transformation, (H, W) grey or (H, W, 3)
            red, green and blue, 0..1.
        label: its class.
        teacher: the teacher's logits (C).
        student: the student's, if there is one.
    """

    image: np.ndarray
    label: int
    teacher: Tensor
    student: Tensor | None


def is_image(shape: Sequence[int]) -> bool:
    """Return whether a blob of a shape holds images, grey or of three colours."""
    return len(shape) == 4 and shape[1] in (1, 3)


def as_stored(image: Tensor, source: Layer) -> np.ndarray:
    """Return an image (C, H, W) of a data layer as it was stored: see ``Sample.image``."""
    scale = mean = None
    if isinstance(source, ImageLayer):
        scale, mean = source.proto.transform_param.scale, source.transformer.mean
    pixels = image.cpu().numpy().astype(np.float64)
    if scale:
        pixels = pixels / scale
        if mean is not None:
            pixels = pixels + _centre(mean, pixels.shape[1:])
    if scale and pixels.min() >= -1 and 1 < pixels.max() <= 256:
        pixels = pixels / 255
    else:  # not bytes: from the smallest value, black, to the largest, white
        pixels = (pixels - pixels.min()) / (np.ptp(pixels) or 1)
    pixels = pixels.clip(0, 1)
    return pixels[0] if len(pixels) == 1 else pixels[::-1].transpose(1, 2, 0)


def _centre(mean: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Return the part of a mean inside a central crop."""
    if mean.shape[1:] == (1, 1):
        return mean
    top, left = ((have - want) // 2 for have, want in zip(mean.shape[1:], size, strict=True))
    return mean[:, top : top + size[0], left : left + size[1]]


def short(name: str) -> str:
    """Return a class' name that a figure has room for and can print."""
    name = "".join(letter if letter.isprintable() else "?" for letter in name)
    return name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 1]}…"


def new_figure(width: float, height: float, arranged: bool = True) -> Figure:
    """Return an empty figure of a size in inches; ``arranged``: with a layout found by itself."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), facecolor="white")
    if arranged:
        figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.06)
    FigureCanvasAgg(figure)
    return figure


def pixels(figure: Figure) -> np.ndarray:
    """Return a figure as an image (H, W, 3) of bytes."""
    canvas: Any = figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def write_heading(figure: Figure, title: str) -> None:
    """Write a figure's title."""
    figure.suptitle(title, fontsize=15, fontweight="bold", color=TEXT, x=0.01, ha="left", va="top")


def draw_image(axes: Axes, image: np.ndarray) -> None:
    """Draw an image of values 0..1 in a frame."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color(FRAME)


def write_text(axes: Axes, x: float, y: float, text: str, **how: Any) -> None:
    """Write a text literally: a name may have $ in it."""
    axes.text(x, y, text, parse_math=False, **how)


def are_short(names: Sequence[str]) -> bool:
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


def softened_outputs(
    samples: Sequence[Sample], names: Sequence[str], temperatures: Sequence[float]
) -> Figure:
    """Draw samples, a row each, with the nets' probabilities at some temperatures.

    Args:
        samples: what to draw, not empty.
        names: the classes' names, shortened.
        temperatures: one for each column.
    """
    rows, columns = len(samples), len(temperatures)
    figure = new_figure(max(1.3 + 3.5 * columns, LEAST_WIDTH), 1.2 + 1.15 * rows)
    write_heading(figure, "The teacher's outputs, softened by a temperature T")
    panels = figure.subplots(rows, 1 + columns, squeeze=False, width_ratios=[1.1, *[3.5] * columns])
    for row, sample in zip(panels, samples, strict=True):
        draw_image(row[0], sample.image)
        row[0].set_ylabel(
            names[sample.label], rotation=0, ha="right", va="center", color=TEXT, parse_math=False
        )
        for axes, temperature in zip(row[1:], temperatures, strict=True):
            _draw_probabilities(axes, sample, names, temperature, with_names=axes is row[1])
    for column, temperature in enumerate(temperatures, 1):
        panels[0, column].set_title(f"T = {temperature:g}", color=TEXT, fontweight="bold")
        if are_short(names):
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
    upright = are_short(names)
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
    write_text(
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
