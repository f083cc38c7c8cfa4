"""Folds the drawing of a deep net from one long strip into strips side by side.

Coordinates are those of ``layout``: ``across`` runs along a row, ``along`` from row to row.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

from .layout import Box, Point

_LONGEST = 3.0  # a drawing is folded where it is longer than this many times its width
_WANTED = 1.6  # and the result has about this ratio of length to width
_TURN = 0.2  # how far before its first row a strip begins: room for incoming links


class Fold:
    """Where a drawing is cut, and where its points are moved to.

    Args:
        boxes: the boxes as they were laid out.
        gap: the space between two strips.
    """

    def __init__(self, boxes: Sequence[Box], gap: float) -> None:
        self._cuts: list[float] = []  # along, in the gap between two rows, after its labels
        low = min((box.across - box.breadth / 2 for box in boxes), default=0.0)
        high = max((box.across + box.breadth / 2 for box in boxes), default=0.0)
        length = max((box.along + box.depth / 2 for box in boxes), default=0.0)
        self._low, self._gap, self._pitch = low, gap, high - low + 2 * gap
        if len({box.lane for box in boxes}) > 1 or length <= _LONGEST * self._pitch:
            return
        strips = max(1, round(math.sqrt(length / (_WANTED * self._pitch))))
        self._cut(boxes, length / strips)

    def _cut(self, boxes: Sequence[Box], wanted: float) -> None:
        """Cut between rows, each time about ``wanted`` after the last cut."""
        start, end = 0.0, 0.0
        for box in sorted(boxes, key=lambda box: box.along - box.depth / 2):
            top = box.along - box.depth / 2
            if top > end and end - start >= wanted:
                start = max(top - _TURN, end)
                self._cuts.append(start)
            end = max(end, box.along + box.depth / 2)

    def strip(self, along: float) -> int:
        """Return the number of the strip in which a point lies."""
        return bisect_right(self._cuts, along)

    def place(self, point: Point) -> Point:
        """Return where a point of the unfolded drawing is moved to."""
        strip = self.strip(point[1])
        if not strip:
            return point
        return point[0] + strip * self._pitch, point[1] - self._cuts[strip - 1]

    def turn(self, start: Point, end: Point) -> list[Point]:
        """Return the corners, in the folded drawing, of a link from one strip to the next."""
        (a, _), (b, _) = self.place(start), self.place(end)
        strip = self.strip(end[1])
        before = self._cuts[strip - 2] if strip > 1 else 0.0
        foot = self._cuts[strip - 1] - before
        gutter = self._low + strip * self._pitch - self._gap
        return [(a, foot), (gutter, foot), (gutter, 0.0), (b, 0.0)]

    def corners(self) -> list[Point]:
        """Return the points of the folded drawing that the outermost links may reach."""
        starts = [0.0, *self._cuts]
        return [
            (self._low + (strip + 1) * self._pitch - self._gap, along)
            for strip, (start, end) in enumerate(zip(starts, self._cuts, strict=False))
            for along in (0.0, end - start)
        ]
