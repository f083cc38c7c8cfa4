"""Deep nets are drawn in strips side by side, not as one long strip."""

from __future__ import annotations

import struct
from itertools import combinations
from pathlib import Path

import pytest

from caffe_kd.cli.draw_net import main
from caffe_kd.pycaffe.fold import Fold
from caffe_kd.pycaffe.layout import Box, lay_out


def chain(count: int) -> tuple[list[Box], list[tuple[int, int]]]:
    """A chain with a shortcut around every third box."""
    boxes = [Box(1.0 + index % 3, 0.6) for index in range(count)]
    links = [(i, i + 1) for i in range(count - 1)]
    return boxes, links + [(i, i + 3) for i in range(0, count - 3, 3)]


@pytest.mark.parametrize("count", [1, 2, 4, 30, 100])
def test_boxes_keep_apart_and_the_drawing_gets_compact(count: int) -> None:
    boxes, links = chain(count)
    ways = lay_out(boxes, links, 0.35, 0.5)
    fold = Fold(boxes, 0.35)
    centres = [fold.place((box.across, box.along)) for box in boxes]
    for (box, (x, y)), (other, (u, v)) in combinations(zip(boxes, centres, strict=True), 2):
        breadth, depth = (box.breadth + other.breadth) / 2, (box.depth + other.depth) / 2
        assert abs(x - u) >= breadth - 1e-9 or abs(y - v) >= depth - 1e-9
    length = max(y for _, y in centres) - min(y for _, y in centres) + 0.6
    breadth = max(x for x, _ in centres) - min(x for x, _ in centres) + 3
    assert length < 4 * breadth
    # A link turns at most once between two of its points.
    assert all(
        abs(fold.strip(a[1]) - fold.strip(b[1])) <= 1
        for way in ways
        for a, b in zip(way, way[1:], strict=False)
    )


def test_lanes_of_teacher_and_student_are_not_folded() -> None:
    boxes, links = chain(60)
    boxes[-1].lane = 1
    lay_out(boxes, links, 0.35, 0.5)
    fold = Fold(boxes, 0.35)
    assert fold.strip(boxes[-1].along) == 0


@pytest.mark.parametrize("rankdir", ["LR", "RL", "TB", "BT"])
def test_image_of_a_deep_net_fits_a_screen(rankdir: str, tmp_path: Path) -> None:
    layers = [
        'layer { name: "data" type: "Input" top: "b0" input_param { shape { dim: [1, 4] } } }'
    ]
    for i in range(60):
        layers.append(
            f'layer {{ name: "ip{i}" type: "InnerProduct" bottom: "b{i}" top: "b{i + 1}" '
            "inner_product_param { num_output: 4 } }"
        )
    net, image = tmp_path / "net.prototxt", tmp_path / "net.png"
    net.write_text("\n".join(layers))
    assert main([str(net), str(image), "-rankdir", rankdir]) == 0
    width, height = struct.unpack(">II", image.read_bytes()[16:24])
    assert max(width, height) < 3 * min(width, height)
