"""Draws training logs: loss, test accuracy and learning rate over the iterations.

Each log has a colour, each output a line style. The palette, Okabe and Ito's, can be distinguished
with every kind of colour vision.
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..core.errors import DataError
from ..core.files import replacing
from .curves import (
    Curve,
    covers,
    is_noisy,
    scaled,
    smoothed,
    suits_log_scale,
    value_range,
)
from .log_parser import Row, TrainingLog

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

ColouredLogs = Sequence[tuple[str, TrainingLog]]

SIZE_INCHES, DPI = (12, 9), 100  # 1200x900 pixels
SHARES_INCHES = 2  # further, for the panel of gradient shares
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D")
MAX_MARKED = 60  # with more points than these, markers hide the line
MAX_LABEL = 60  # characters
MAX_COLUMNS = 8  # of the legend
TEXT, FRAME, GRID = "#333333", "#999999", "#E3E3E3"
ACCURACY = re.compile(r"acc|top-?_?\d", re.IGNORECASE)


def plot(logs: Mapping[str, TrainingLog], path: str | Path, title: str = "") -> None:
    """Draw logs over one another into a PNG of 1200x900 pixels.

    Three panels share the iterations: the training loss, as logged and smoothed, with the test
    loss; the test accuracy; the learning rate. Where a log has gradient shares there is a fourth
    above the learning rate, and the image is 200 pixels higher.

    Args:
        logs: the logs by the label each gets in the legend.
        path: the file to write; missing folders are made.
        title: the figure's title.

    Raises:
        DataError: there is no log to draw.
        CaffeKDError: the file cannot be written.
    """
    if not logs:
        raise DataError("there is no training log to plot")
    import matplotlib

    with warnings.catch_warnings(), matplotlib.rc_context({"agg.path.chunksize": 10000}):
        # A label may be in a script that the font doesn't have.
        warnings.filterwarnings("ignore", message="Glyph .* missing from (current )?font")
        figure = _draw(logs, title)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=DPI)


def house_style(axes: Axes, grid: Literal["both", "x", "y"] = "both") -> None:
    """Give a panel the look that all charts of this package share."""
    axes.grid(True, axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=TEXT, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FRAME)
    for label in (axes.xaxis.label, axes.yaxis.label, axes.title):
        label.set_color(TEXT)
    axes.title.set_fontweight("bold")


def _draw(logs: Mapping[str, TrainingLog], title: str) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    has_shares = any(log.gradient_shares for log in logs.values())
    width, height = SIZE_INCHES
    figure = Figure((width, height + SHARES_INCHES * has_shares), facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.06)
    FigureCanvasAgg(figure)
    ratios = (4, 4, 3, 2) if has_shares else (4, 4, 2)
    panels = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios)
    loss, accuracy, *shares, rate = panels
    for axes in panels:
        house_style(axes)
    colours = _colours(len(logs))
    coloured = list(zip(colours, logs.values(), strict=True))
    last = max([1, *(_last_iteration(log) for log in logs.values())])
    rate.set_xlim(-0.01 * last, 1.01 * last)  # room for markers at the ends
    rate.set_xlabel("iteration", color=TEXT)
    rate.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    _draw_losses(loss, coloured)
    _draw_accuracies(accuracy, coloured)
    for axes in shares:
        _draw_shares(axes, coloured)
    _draw_learning_rates(rate, coloured)
    _legend(figure, logs, colours, title)
    return figure


def _colours(count: int) -> Sequence[str]:
    """The palette, or for more logs than it has colours, a scale from dark to light."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if count <= len(COLOURS):
        return COLOURS[:count]
    return [to_hex(colour) for colour in colormaps["viridis"](np.linspace(0, 0.92, count))]


def _draw_losses(axes: Axes, logs: ColouredLogs) -> None:
    raw = [_curve(log.train, [row.loss for row in log.train], colour) for colour, log in logs]
    nets = sorted({net for _, log in logs for net in log.tests})
    tests = {net: list[Curve]() for net in nets}
    for colour, log in logs:
        for net, rows in log.tests.items():
            known = [(row, row.loss) for row in rows if row.loss is not None]
            curve = _curve([row for row, _ in known], [loss for _, loss in known], colour)
            tests[net].append(replace(curve, style=(1 + net) % len(DASHES)))
    tested = [curve for net in nets for curve in tests[net]]
    log_scale = suits_log_scale(raw + tested)
    noisy = any(is_noisy(curve, log_scale) for curve in raw)
    lines = [smoothed(curve, log_scale) if noisy else curve for curve in raw]
    for curve, line in zip(raw, lines, strict=True):
        if noisy:
            axes.plot(curve.x, curve.y, color=curve.colour, linewidth=0.8, alpha=0.25)
        _draw_line(axes, line, marked=len(line.x) == 1)
        _mark_divergence(axes, curve)
    for curve in tested:
        _draw_line(axes, curve)
    _scale(axes, lines + tested, log_scale, noise=raw)
    keys = [("training" + (" (smoothed; faint: as logged)" if noisy else ""), 0)]
    for net in nets:
        if any(len(curve.x) for curve in tests[net]):
            keys.append((f"test net #{net}" if len(nets) > 1 else "test", (1 + net) % len(DASHES)))
    if len(keys) > 1 or noisy:
        _title(axes, "Loss", keys)
    else:
        _title(axes, "Training loss", [])


def _draw_accuracies(axes: Axes, logs: ColouredLogs) -> None:
    outputs = _accuracies(log for _, log in logs)
    shown = outputs[: len(DASHES)]
    several_nets = len({net for net, _ in shown}) > 1
    curves = []
    for style, (net, name) in enumerate(shown):
        for colour, log in logs:
            rows = [row for row in log.tests.get(net, []) if name in row.outputs]
            curve = _curve(rows, [row.outputs[name] for row in rows], colour)
            curves.append(replace(curve, style=style))
    for curve in curves:
        _draw_line(axes, curve)
    percent = all(((0 <= curve.y) & (curve.y <= 1)).all() for curve in curves)
    _scale(axes, curves, unit="%" if percent else "")
    title = "Test accuracy"
    if len(outputs) > len(shown):
        title += f" ({len(shown)} of {len(outputs)} outputs)"
    keys = [
        (f"{name}, test net #{net}" if several_nets else name, style)
        for style, (net, name) in enumerate(shown)
    ]
    _title(axes, title, keys if keys != [("accuracy", 0)] else [])


def _draw_shares(axes: Axes, logs: ColouredLogs) -> None:
    means: dict[str, list[float]] = {}
    for _, log in logs:
        for row in log.gradient_shares:
            for name, share in row.shares.items():
                means.setdefault(name, []).append(share)
    shown = sorted(means, key=lambda name: -float(np.mean(means[name])))[: len(DASHES)]
    curves = []
    for style, name in enumerate(shown):
        for colour, log in logs:
            rows = [row for row in log.gradient_shares if name in row.shares]
            curve = _curve(rows, [row.shares[name] for row in rows], colour)
            curves.append(replace(curve, style=style))
    for curve in curves:
        _draw_line(axes, curve)
    _scale(axes, curves, unit="%")
    axes.set_ylim(-0.03, 1.03)
    title = "Share in the student's gradient"
    if len(means) > len(shown):
        title += f" ({len(shown)} of {len(means)} terms)"
    _title(axes, title, [(name, style) for style, name in enumerate(shown)])


def _draw_learning_rates(axes: Axes, logs: ColouredLogs) -> None:
    from matplotlib.ticker import MaxNLocator

    curves = []
    for colour, log in logs:
        rows = log.learning_rates
        curves.append(_curve(rows, [row.lr for row in rows], colour))
    for number, curve in enumerate(curves):
        # Where runs share their rates, the lines below show behind those above.
        hidden = sum(covers(other, curve) for other in curves[number + 1 :])
        width = 1.8 + 2.2 * min(hidden, 3)
        axes.step(curve.x, curve.y, where="post", color=curve.colour, linewidth=width)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    _scale(axes, curves, suits_log_scale(curves))
    _title(axes, "Learning rate", [])


def _curve(rows: Sequence[Row], values: Sequence[float], colour: str) -> Curve:
    x = np.array([row.iteration for row in rows], dtype=np.float64)
    with np.errstate(over="ignore", under="ignore"):  # nothing was trained beyond float32
        y = np.array(values, dtype=np.float64).astype(np.float32).astype(np.float64)
    return Curve(x, y, colour)


def _accuracies(logs: Iterable[TrainingLog]) -> list[tuple[int, str]]:
    """Which outputs of which test nets to draw: accuracies by their names, else all but losses."""
    outputs = {
        (net, name): None  # a set that keeps the order
        for log in logs
        for net, rows in log.tests.items()
        for row in rows
        for name in row.outputs
    }
    accuracies = [(net, name) for net, name in outputs if ACCURACY.search(name)]
    return accuracies or [(net, name) for net, name in outputs if "loss" not in name.lower()]


def _scale(
    axes: Axes,
    curves: Sequence[Curve],
    log_scale: bool = False,
    noise: Sequence[Curve] = (),
    unit: str = "",
) -> None:
    """Set the limits by the curves and most of the noise; annotate the first values it cuts off."""
    curves = [curve for curve in curves if np.isfinite(scaled(curve.y, log_scale)).any()]
    if not curves:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not in the log", transform=axes.transAxes, ha="center", color=FRAME)
        return
    low, high = value_range(curves, noise, log_scale)
    if low == high and not log_scale:
        axes.set_yticks([low])
    pad = 0.06 * (high - low) or (0.1 if log_scale else 0.1 * abs(high) or 1.0)
    firsts = scaled(np.array([curve.y[0] for curve in curves]), log_scale)
    below, above = firsts < low - pad, firsts > high + pad
    # A value that is cut off is annotated at the edge, which needs room below or above the lines.
    low -= pad * (2.5 if below.any() else 1)
    high += pad * (2.5 if above.any() else 1)
    if log_scale:
        _label_log_axis(axes, high - low)
        low, high = 10**low, 10**high
    else:
        axes.yaxis.set_major_formatter(lambda value, _: _number(value, unit))
    axes.set_ylim(low, high)
    _annotate_cut_off(axes, list(itertools.compress(curves, below)), 0.0, unit)
    _annotate_cut_off(axes, list(itertools.compress(curves, above)), 1.0, unit)


def _number(value: float, unit: str) -> str:
    return f"{100 * value:.4g}%" if unit == "%" else f"{value:.4g}"


def _annotate_cut_off(axes: Axes, curves: Sequence[Curve], edge: float, unit: str) -> None:
    """Annotate the first values beyond the lower (0) or upper (1) edge."""
    if not curves:
        return
    for curve in curves:
        axes.plot(
            curve.x[0],
            edge,
            transform=axes.get_xaxis_transform(),
            clip_on=False,
            color=curve.colour,
            marker="^" if edge else "v",
        )
    values = [curve.y[0] for curve in curves]
    texts = dict.fromkeys([_number(min(values), unit), _number(max(values), unit)])
    axes.annotate(
        f"first: {' to '.join(texts)}",
        (min(curve.x[0] for curve in curves), edge),
        xycoords=axes.get_xaxis_transform(),
        xytext=(9, -4 if edge else 4),
        textcoords="offset points",
        va="top" if edge else "bottom",
        color=TEXT,
        fontsize=9,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1},
    )


def _label_log_axis(axes: Axes, decades: float) -> None:
    """Show plain numbers, also between the powers of ten where there is room."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    roomy = axes.bbox.height / decades > 90  # pixels
    steps = (1.0, 2.0, 5.0) if roomy else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=steps, numticks=12))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _mark_divergence(axes: Axes, curve: Curve) -> None:
    broken = np.flatnonzero(~np.isfinite(curve.y))
    if not len(broken):
        return
    x = curve.x[broken[0]]
    axes.axvline(x, color=curve.colour, linestyle=":", linewidth=1.2)
    axes.annotate(
        f"{curve.y[broken[0]]} at {x:,.0f}",
        (x, 0.97),
        xycoords=axes.get_xaxis_transform(),
        xytext=(4 if x < axes.get_xlim()[1] / 2 else -4, 0),
        textcoords="offset points",
        ha="left" if x < axes.get_xlim()[1] / 2 else "right",
        va="top",
        color=curve.colour,
    )


def _draw_line(axes: Axes, curve: Curve, marked: bool = True) -> None:
    axes.plot(
        curve.x,
        curve.y,
        color=curve.colour,
        linestyle=DASHES[curve.style],
        linewidth=1.8,
        marker=MARKERS[curve.style] if marked and len(curve.x) <= MAX_MARKED else "",
        markersize=6,
        markeredgecolor="white",
        markeredgewidth=0.7,
    )


def _title(axes: Axes, title: str, keys: Sequence[tuple[str, int]]) -> None:
    """Write above the panel what it shows: left the title, right the line styles."""
    from matplotlib.lines import Line2D

    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=TEXT)
    if not keys:
        return
    handles = [
        Line2D([], [], color=FRAME, linestyle=DASHES[style], linewidth=1.8) for _, style in keys
    ]
    legend = axes.legend(
        handles,
        ["."] * len(keys),
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=len(keys),
        frameon=False,
        borderaxespad=0.1,
        labelcolor=TEXT,
        handlelength=2.6,
    )
    _write_labels(legend, [_printable(name, MAX_LABEL) for name, _ in keys])


def _legend(
    figure: Figure, logs: Mapping[str, TrainingLog], colours: Sequence[str], title: str
) -> None:
    """Write the title and the legend of the logs, above all panels."""
    from matplotlib.lines import Line2D

    labels = [_printable(label, MAX_LABEL) + _result(log) for label, log in logs.items()]
    handles = [Line2D([], [], color=colour, linewidth=4) for colour in colours]
    for columns in range(min(MAX_COLUMNS, len(labels)), 0, -1):
        legend = figure.legend(
            handles,
            ["."] * len(labels),
            loc="outside upper left",
            ncols=columns,
            frameon=False,
            fontsize=11,
            labelcolor=TEXT,
            handlelength=1.6,
            title=_printable(title) or None,
            title_fontproperties={"size": 15, "weight": "bold"},
            alignment="left",
        )
        legend.get_title().set(color=TEXT, parse_math=False)
        _write_labels(legend, labels)
        # How wide a label is depends on its letters, so it is measured.
        if columns == 1 or legend.get_window_extent().width < 0.98 * figure.bbox.width:
            return
        legend.remove()


def _write_labels(legend: Legend, labels: Sequence[str]) -> None:
    """Set the texts as they are: the legend itself drops names like _a and makes $a$ a formula."""
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set(text=label, parse_math=False)


def _result(log: TrainingLog) -> str:
    for net, name in _accuracies([log])[:1]:
        value = [row.outputs[name] for row in log.tests[net] if name in row.outputs][-1]
        if 0 <= value <= 1:
            return f" (accuracy {100 * value:.2f}%)"
    return ""


def _printable(text: str, most: int = 100) -> str:
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= most else f"{text[: most - 20]}…{text[-19:]}"


def _last_iteration(log: TrainingLog) -> int:
    tables: list[Sequence[Row]] = [log.train, log.learning_rates, *log.tests.values()]
    tables.append(log.gradient_shares)
    return max((rows[-1].iteration for rows in tables if rows), default=0)
