from __future__ import annotations

import itertools
import random

from caffe_kd.pycaffe.layout import Box, lay_out


def boxes(*lanes: int) -> list[Box]:
    return [Box(1.0, 0.5, lane) for lane in lanes]


def test_chain_is_a_straight_line_with_room_between() -> None:
    chain = boxes(0, 0, 0)
    ways = lay_out(chain, [(0, 1), (1, 2)], gap=0.3, row_gap=0.4)
    assert ways == [[], []]
    assert len({round(box.across, 9) for box in chain}) == 1
    assert [round(box.along, 9) for box in chain] == [0.25, 1.15, 2.05]


def test_boxes_of_a_row_never_overlap() -> None:
    shuffle = random.Random(0)
    for _ in range(20):
        count = 25
        placed = [Box(shuffle.uniform(0.5, 3), shuffle.uniform(0.3, 1)) for _ in range(count)]
        links = [(a, b) for a, b in itertools.combinations(range(count), 2) if b - a < 5]
        links = shuffle.sample(links, 35)
        lay_out(placed, links, gap=0.3, row_gap=0.4)
        for a, b in links:
            before, behind = placed[a], placed[b]
            assert before.along + before.depth / 2 < behind.along - behind.depth / 2
        for one, other in itertools.combinations(placed, 2):
            distance = abs(one.across - other.across) - (one.breadth + other.breadth) / 2
            rows = abs(one.along - other.along) - (one.depth + other.depth) / 2
            assert distance > -1e-9 or rows > -1e-9


def test_crossing_that_can_be_undone_is_undone() -> None:
    # Two pairs that cross in the order given.
    placed = boxes(0, 0, 0, 0)
    lay_out(placed, [(0, 3), (1, 2)], gap=0.3, row_gap=0.4)
    left, right = placed[0].across, placed[1].across
    assert (left < right) == (placed[3].across < placed[2].across)


def test_long_link_passes_beside_the_boxes_between() -> None:
    placed = boxes(0, 0, 0, 0)
    ways = lay_out(placed, [(0, 1), (1, 2), (2, 3), (0, 3)], gap=0.3, row_gap=0.4)
    assert len(ways[3]) == 4
    for points, box in zip((ways[3][:2], ways[3][2:]), placed[1:3], strict=True):
        assert points[0][0] == points[1][0]
        assert abs(points[0][0] - box.across) > box.breadth / 2
        half = box.depth / 2
        assert [along for _, along in points] == [box.along - half, box.along + half]


def test_long_link_is_straight_beside_the_deepest_box_of_each_row() -> None:
    placed = [Box(1.0, depth) for depth in (0.5, 0.4, 1.6, 0.7, 0.5)]
    links = [(0, 1), (0, 2), (1, 3), (2, 3), (3, 4), (0, 4)]
    *_, way = lay_out(placed, links, gap=0.3, row_gap=0.4)
    deep, next_row = placed[2], placed[3]
    assert [along for _, along in way[:2]] == [
        deep.along - deep.depth / 2,
        deep.along + deep.depth / 2,
    ]
    assert way[2][1] == next_row.along - next_row.depth / 2


def test_source_lies_just_before_its_use() -> None:
    placed = boxes(0, 0, 0, 0)
    lay_out(placed, [(0, 2), (2, 3), (1, 3)], gap=0.3, row_gap=0.4)
    assert placed[1].along == placed[2].along > placed[0].along


def test_lanes_have_their_own_columns() -> None:
    placed = boxes(1, 0, 2, 0, 2, 1)
    links = [(0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 5)]
    lay_out(placed, links, gap=0.3, row_gap=0.4)
    ends = {
        lane: (
            min(b.across - b.breadth / 2 for b in placed if b.lane == lane),
            max(b.across + b.breadth / 2 for b in placed if b.lane == lane),
        )
        for lane in (0, 1, 2)
    }
    assert ends[0][1] < ends[1][0]
    assert ends[1][1] < ends[2][0]


def test_nothing_is_laid_out_as_nothing() -> None:
    assert lay_out([], [], gap=0.3, row_gap=0.4) == []
