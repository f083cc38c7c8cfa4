"""Arranges the boxes of a graph in rows, so that links run one way with few crossings.

A row is a rank: a box comes after all its sources. ``across`` runs along a row, ``along`` from
row to row; what is up, down, left or right is the renderer's choice. Units are the caller's.

Source: Sugiyama, Tagawa and Toda, "Methods for visual understanding of hierarchical system
structures", 1981, in its common form: ranks, dummy vertices for long links, order by barycentres.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

Point = tuple[float, float]  # across, along

_ORDER_SWEEPS = 12
_POSITION_SWEEPS = 24
_STRAIGHTENINGS = 8
_STRAIGHT = 8.0  # weight of straight long links against centred boxes


@dataclass
class Box:
    """A box to position.

    Attributes:
        breadth: its size across.
        depth: its size along.
        lane: boxes of different lanes never overlap across.
        across: where its centre is put.
        along: likewise.
    """

    breadth: float
    depth: float
    lane: int = 0
    across: float = 0.0
    along: float = 0.0


@dataclass
class _Spot:
    """A box in its row, or the point in a row where a long link passes."""

    box: Box
    lane: int
    rank: int
    is_box: bool = True
    position: float = 0.0
    near: list[tuple[_Spot, float]] = field(default_factory=list)  # with how much it pulls
    before: list[_Spot] = field(default_factory=list)
    behind: list[_Spot] = field(default_factory=list)


def lay_out(
    boxes: Sequence[Box], links: Sequence[tuple[int, int]], gap: float, row_gap: float
) -> list[list[Point]]:
    """Set the position of each box.

    Args:
        boxes: in an order in which each comes before those that it leads to.
        links: pairs of numbers of boxes, each from a lower to a higher one.
        gap: the minimum space between boxes of a row.
        row_gap: the space between rows.

    Returns:
        For each link the points it passes between its two boxes.
    """
    ranks = _ranks(len(boxes), links)
    spots = [_Spot(box, box.lane, rank) for box, rank in zip(boxes, ranks, strict=True)]
    chains = [_chain(spots[a], spots[b]) for a, b in links]
    rows: list[list[_Spot]] = [[] for _ in range(max(ranks, default=-1) + 1)]
    for spot in [*spots, *(spot for chain in chains for spot in chain)]:
        rows[spot.rank].append(spot)
    _order(rows)
    _set_positions(rows, chains, gap)
    along = 0.0
    for row in rows:
        depth = max(spot.box.depth for spot in row)
        for spot in row:
            spot.box.across, spot.box.along = spot.position, along + depth / 2
            if not spot.is_box:
                spot.box.depth = depth
        along += depth + row_gap
    return [[point for spot in chain for point in _passage(spot.box)] for chain in chains]


def _passage(box: Box) -> list[Point]:
    """Return where a link enters a row and where it leaves it: beside the row's boxes."""
    half = box.depth / 2
    return [(box.across, box.along - half), (box.across, box.along + half)]


def _ranks(count: int, links: Sequence[tuple[int, int]]) -> list[int]:
    """Return each box's row: the longest way to it; a source lies just before its first use."""
    ranks = [0] * count
    used: dict[int, list[int]] = defaultdict(list)
    for a, b in sorted(links, key=lambda link: link[1]):
        ranks[b] = max(ranks[b], ranks[a] + 1)
        used[a].append(b)
    for number in set(used) - {b for _, b in links}:
        ranks[number] = min(ranks[b] for b in used[number]) - 1
    return ranks


def _chain(source: _Spot, target: _Spot) -> list[_Spot]:
    """Return a spot for each row that a link passes, linked to one another and to both ends."""
    middle = [
        _Spot(Box(0.0, 0.0), target.lane, rank, is_box=False)
        for rank in range(source.rank + 1, target.rank)
    ]
    way = [source, *middle, target]
    for first, second in zip(way, way[1:], strict=False):
        pull = _STRAIGHT if not (first.is_box or second.is_box) else 1.0
        first.near.append((second, pull))
        second.near.append((first, pull))
        first.behind.append(second)
        second.before.append(first)
    return middle


def _order(rows: list[list[_Spot]]) -> None:
    """Sort each row repeatedly by the positions of its neighbours in the next row."""
    _number(rows)
    for sweep in range(_ORDER_SWEEPS):
        downwards = sweep % 2 == 0
        for row in rows if downwards else rows[::-1]:
            row.sort(key=lambda spot: (spot.lane, _mean(spot, downwards)))
            _number([row])


def _number(rows: list[list[_Spot]]) -> None:
    for row in rows:
        for index, spot in enumerate(row):
            spot.position = (index + 0.5) / len(row)


def _mean(spot: _Spot, downwards: bool) -> float:
    neighbours = spot.before if downwards else spot.behind
    if not neighbours:
        return spot.position
    return sum(n.position for n in neighbours) / len(neighbours)


def _set_positions(rows: list[list[_Spot]], chains: list[list[_Spot]], gap: float) -> None:
    """Put each spot near its neighbours, lane by lane, then the lanes side by side."""
    edge = 0.0
    for lane in sorted({spot.lane for row in rows for spot in row}):
        own = [[spot for spot in row if spot.lane == lane] for row in rows]
        own = [row for row in own if row]
        for row in own:
            _spread(row, [0.0] * len(row), gap)
        for sweep in range(_POSITION_SWEEPS):
            for row in own if sweep % 2 == 0 else own[::-1]:
                _spread(row, [_wanted(spot) for spot in row], gap)
        for _ in range(_STRAIGHTENINGS):
            straight = {
                id(spot): sum(other.position for other in chain) / len(chain)
                for chain in chains
                for spot in chain
            }
            for row in own:
                _spread(row, [straight.get(id(spot), spot.position) for spot in row], gap)
        least = min(spot.position - spot.box.breadth / 2 for row in own for spot in row)
        for row in own:
            for spot in row:
                spot.position += edge - least
        edge = max(spot.position + spot.box.breadth / 2 for row in own for spot in row) + 3 * gap


def _wanted(spot: _Spot) -> float:
    pulls = [(other.position, pull) for other, pull in spot.near if other.lane == spot.lane]
    if not pulls:
        return spot.position
    return sum(position * pull for position, pull in pulls) / sum(pull for _, pull in pulls)


def _spread(row: list[_Spot], wanted: Sequence[float], gap: float) -> None:
    """Put a row's spots as near as possible to their wanted positions, without overlap.

    Solved in least squares, by pooling neighbours that push each other.
    """
    offsets = [0.0]
    for first, second in zip(row, row[1:], strict=False):
        offsets.append(offsets[-1] + (first.box.breadth + second.box.breadth) / 2 + gap)
    pools: list[tuple[float, float, int]] = []  # mean, weight, how many
    for spot, want, offset in zip(row, wanted, offsets, strict=True):
        mean, weight, count = want - offset, sum(pull for _, pull in spot.near) or 1.0, 1
        while pools and pools[-1][0] > mean:
            other, more, others = pools.pop()
            mean = (mean * weight + other * more) / (weight + more)
            weight, count = weight + more, count + others
        pools.append((mean, weight, count))
    means = [mean for mean, _, count in pools for _ in range(count)]
    for spot, mean, offset in zip(row, means, offsets, strict=True):
        spot.position = mean + offset
