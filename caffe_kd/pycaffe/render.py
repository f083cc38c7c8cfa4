"""Draws a laid-out graph of layers as PNG, SVG or PDF with matplotlib."""

from __future__ import annotations

import io
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .fold import Fold
from .layout import Box, Point, lay_out

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("png", "svg", "pdf")

# Inches. A character is as wide as DejaVu Sans' average at the font's size.
_FONT, _SMALL = 8, 7  # points
_CHARACTER, _LINE, _MARGIN = 0.068, 0.145, 0.14
_GAP, _ROW_GAP, _EDGE = 0.35, 0.5, 0.3
_ARROW = 0.09
_DPI, _MOST_PIXELS = 100, 30000  # of a side; matplotlib draws up to 65535
_PAPER = {"fc": "white", "alpha": 0.75, "lw": 0, "pad": 0.5}  # behind text that lines may cross
_INK, _LINE_COLOUR, _PANEL = "#222222", "#666666", "#F3F3F3"


@dataclass
class Node:
    """A layer in the drawing.

    Attributes:
        name: its identifier in dot.
        lines: its text.
        colour: of the box.
        lane: its column; see ``layout.Box``.
    """

    name: str
    lines: list[str]
    colour: str
    lane: int = 0


@dataclass
class Link:
    """A blob between two layers.

    Attributes:
        source: the index of the node that produces it.
        target: that of the node that consumes it.
        blob: its name.
        label: what is written beside it.
    """

    source: int
    target: int
    blob: str
    label: str = ""


def render(
    nodes: Sequence[Node],
    links: Sequence[Link],
    titles: Mapping[int, str],
    rankdir: str,
    file_format: str,
) -> bytes:
    """Return the image of a graph.

    Args:
        nodes: the layers in their order.
        links: the blobs between them.
        titles: the headings of lanes that get a panel.
        rankdir: which way the graph runs: TB, BT, LR or RL.
        file_format: one of ``FORMATS``.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing = _Drawing(nodes, links, rankdir)
    left, bottom, right, top = drawing.bounds(titles)
    width, height = right - left, top - bottom
    with (
        warnings.catch_warnings(),
        # Text stays text, and the same net gives the same bytes.
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "caffe_kd"}),
    ):
        # The font may lack the script of a name.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width, height), facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(left, right)
        axes.set_ylim(bottom, top)
        drawing.draw(axes, titles)
        file = io.BytesIO()
        dpi = min(_DPI, _MOST_PIXELS / max(width, height))
        dated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
        metadata = dated.get(file_format)
        figure.savefig(file, format=file_format, dpi=dpi, metadata=metadata)
    return file.getvalue()


class _Drawing:
    """The positions of everything, in inches, x to the right and y upwards."""

    def __init__(self, nodes: Sequence[Node], links: Sequence[Link], rankdir: str) -> None:
        self._nodes, self._links = nodes, links
        self._upright = rankdir in ("TB", "BT")
        self._sign = 1 if rankdir in ("BT", "LR") else -1
        self._leaving: dict[int, list[int]] = defaultdict(list)
        self._entering: dict[int, list[int]] = defaultdict(list)
        for number, link in enumerate(links):
            self._leaving[link.source].append(number)
            self._entering[link.target].append(number)
        sizes = [_size(node.lines, self._room(i)) for i, node in enumerate(nodes)]
        self._boxes = [
            Box(*(size if self._upright else size[::-1]), lane=node.lane)
            for size, node in zip(sizes, nodes, strict=True)
        ]
        label = max([len(link.label) for link in links], default=0) * _CHARACTER
        row_gap = _ROW_GAP if self._upright else max(_ROW_GAP, label + 2 * _ARROW)
        pairs = [(link.source, link.target) for link in links]
        self._ways = lay_out(self._boxes, pairs, _GAP, row_gap)
        self._fold = Fold(self._boxes, _GAP)

    def _room(self, number: int) -> float:
        """Return how wide a box must be for the labels of its blobs to fit side by side."""
        labels = {self._links[i].blob: self._links[i].label for i in self._leaving[number]}
        if len(labels) < 2 or not self._upright:
            return 0.0
        return len(labels) * (max(map(len, labels.values())) * _CHARACTER + 0.1)

    def _xy(self, point: Point) -> Point:
        return self._turned(self._fold.place(point))

    def _turned(self, point: Point) -> Point:
        across, along = point[0], self._sign * point[1]
        return (across, along) if self._upright else (along, -across)

    def _rectangle(self, box: Box) -> tuple[float, float, float, float]:
        """Return left, bottom, width and height of a box."""
        x, y = self._xy((box.across, box.along))
        width, height = (box.breadth, box.depth) if self._upright else (box.depth, box.breadth)
        return x - width / 2, y - height / 2, width, height

    def bounds(self, titles: Mapping[int, str]) -> tuple[float, float, float, float]:
        """Return left, bottom, right and top of the drawing."""
        rectangles = [self._rectangle(box) for box in self._boxes]
        points = [self._xy(point) for way in self._ways for point in way]
        points += [self._turned(corner) for corner in self._fold.corners()]
        room = max([len(link.label) for link in self._links], default=0) * _CHARACTER
        xs = [x for x, *_ in rectangles] + [x + w for x, _, w, _ in rectangles]
        ys = [y for _, y, *_ in rectangles] + [y + h for _, y, _, h in rectangles]
        xs += [x for x, _ in points]
        ys += [y for _, y in points]
        right = room if self._upright else 0.0
        head = 2 * _LINE if titles else 0.0
        return min(xs) - _EDGE, min(ys) - _EDGE, max(xs) + _EDGE + right, max(ys) + _EDGE + head

    def draw(self, axes: Axes, titles: Mapping[int, str]) -> None:
        """Draw panels, blobs and layers, in this order."""
        for lane, title in titles.items():
            self._draw_panel(axes, lane, title)
        starts, ends = self._ports()
        labelled: set[tuple[int, str]] = set()
        for number, (link, way) in enumerate(zip(self._links, self._ways, strict=True)):
            self._draw_link(axes, [starts[number], *way, ends[number]])
            if (link.source, link.blob) not in labelled and link.label:
                labelled.add((link.source, link.blob))
                self._draw_label(axes, starts[number], link.label)
        for node, box in zip(self._nodes, self._boxes, strict=True):
            self._draw_box(axes, node, box)

    def _ports(self) -> tuple[list[Point], list[Point]]:
        """Return where each link leaves its box and where it enters the next one."""
        starts: list[Point] = [(0.0, 0.0)] * len(self._links)
        ends = list(starts)
        for number, box in enumerate(self._boxes):
            leaving = self._leaving[number]
            blobs = list(dict.fromkeys(self._links[i].blob for i in leaving))
            first = {b: next(i for i in leaving if self._links[i].blob == b) for b in blobs}
            blobs.sort(key=lambda blob: self._next_across(first[blob]))
            for i in leaving:
                shift = (blobs.index(self._links[i].blob) + 0.5) / len(blobs) - 0.5
                shift *= box.breadth
                starts[i] = (box.across + shift, box.along + box.depth / 2)
            entering = sorted(self._entering[number], key=self._last_across)
            for position, i in enumerate(entering):
                shift = (position - (len(entering) - 1) / 2) * box.breadth / (len(entering) + 1)
                ends[i] = (box.across + shift, box.along - box.depth / 2)
        return starts, ends

    def _next_across(self, link: int) -> float:
        way = self._ways[link]
        return way[0][0] if way else self._boxes[self._links[link].target].across

    def _last_across(self, link: int) -> float:
        way = self._ways[link]
        return way[-1][0] if way else self._boxes[self._links[link].source].across

    def _draw_link(self, axes: Axes, points: Sequence[Point]) -> None:
        from matplotlib.patches import PathPatch, Polygon
        from matplotlib.path import Path

        end = points[-1]
        points = [*points[:-1], (end[0], end[1] - _ARROW)]
        corners, codes = [self._xy(points[0])], [Path.MOVETO]
        for (a, s), (b, t) in zip(points, points[1:], strict=False):
            if self._fold.strip(s) != self._fold.strip(t):
                corners += [self._turned(p) for p in self._fold.turn((a, s), (b, t))]
                corners.append(self._xy((b, t)))
                codes += [Path.LINETO] * 5
                continue
            middle = (s + t) / 2  # leaves and enters each row straight
            corners += [self._xy((a, middle)), self._xy((b, middle)), self._xy((b, t))]
            codes += [Path.CURVE4] * 3
        axes.add_patch(PathPatch(Path(corners, codes), fill=False, lw=0.9, ec=_LINE_COLOUR))
        base, half = end[1] - _ARROW, _ARROW * 0.4
        head = [end, (end[0] - half, base), (end[0] + half, base)]
        axes.add_patch(Polygon([self._xy(p) for p in head], fc=_LINE_COLOUR, lw=0))

    def _draw_label(self, axes: Axes, start: Point, label: str) -> None:
        x, y = self._xy((start[0], start[1] + 0.05))
        style: dict[str, Any] = {"fontsize": _SMALL, "color": _LINE_COLOUR, "bbox": _PAPER}
        style |= {"parse_math": False, "zorder": 3}
        if self._upright:
            below = self._sign < 0
            axes.text(x + 0.05, y, label, va="top" if below else "bottom", **style)
        else:
            side = "left" if self._sign > 0 else "right"
            axes.text(x, y + 0.03, label, ha=side, va="bottom", **style)

    def _draw_box(self, axes: Axes, node: Node, box: Box) -> None:
        from matplotlib.patches import FancyBboxPatch

        x, y, width, height = self._rectangle(box)
        shape = FancyBboxPatch(
            (x, y), width, height,
            boxstyle="round,pad=0,rounding_size=0.06", fc=node.colour, ec=_INK, lw=0.8,
        )  # fmt: skip
        axes.add_patch(shape)
        for index, line in enumerate(node.lines):
            axes.text(
                x + width / 2, y + height - _MARGIN / 2 - (index + 0.5) * _LINE, line,
                ha="center", va="center", fontsize=_FONT if index == 0 else _SMALL, color=_INK,
                fontweight="bold" if index == 0 else "normal", parse_math=False,
            )  # fmt: skip

    def _draw_panel(self, axes: Axes, lane: int, title: str) -> None:
        from matplotlib.patches import Rectangle

        rectangles = [self._rectangle(box) for box in self._boxes if box.lane == lane]
        if not rectangles:
            return
        left, bottom = (
            min(x for x, *_ in rectangles) - _MARGIN,
            min(y for _, y, *_ in rectangles) - _MARGIN,
        )
        right = max(x + w for x, _, w, _ in rectangles) + _MARGIN
        top = max(y + h for _, y, _, h in rectangles) + _MARGIN
        axes.add_patch(Rectangle((left, bottom), right - left, top - bottom, fc=_PANEL, lw=0))
        axes.text(
            left, top + 0.04, title,
            ha="left", va="bottom", fontsize=_FONT + 2, color=_LINE_COLOUR, parse_math=False,
            zorder=3, bbox=_PAPER,
        )  # fmt: skip


def _size(lines: Sequence[str], room: float) -> tuple[float, float]:
    widths = [len(line) * _CHARACTER * (1.1 if i == 0 else 0.9) for i, line in enumerate(lines)]
    return max([0.6, room, *widths]) + 2 * _MARGIN, len(lines) * _LINE + _MARGIN
