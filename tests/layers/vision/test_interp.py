from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import assert_close, check_onnx, gradcheck, layer_net, make_layer, run

SHAPE = (2, 3, 5, 7)


def body(param: str) -> str:
    return f'type: "Interp" interp_param {{ {param} }}'


def plain(x: np.ndarray, height: int, width: int, cut: tuple[int, int]) -> np.ndarray:
    before, behind = cut
    x = x[:, :, before : x.shape[2] - behind, before : x.shape[3] - behind]
    y = np.empty((*x.shape[:2], height, width))
    for h in range(height):
        for w in range(width):
            row = h * (x.shape[2] - 1) / (height - 1) if height > 1 else 0.0
            column = w * (x.shape[3] - 1) / (width - 1) if width > 1 else 0.0
            top, left = int(row), int(column)
            down, right = row - top, column - left
            bottom, last = min(top + 1, x.shape[2] - 1), min(left + 1, x.shape[3] - 1)
            upper = (1 - right) * x[:, :, top, left] + right * x[:, :, top, last]
            lower = (1 - right) * x[:, :, bottom, left] + right * x[:, :, bottom, last]
            y[:, :, h, w] = (1 - down) * upper + down * lower
    return y


CASES = [
    ("height: 8 width: 3", (8, 3)),
    ("height: 1 width: 1", (1, 1)),
    ("height: 5 width: 7", (5, 7)),
    ("zoom_factor: 3", (13, 19)),
    ("shrink_factor: 2", (3, 4)),
    ("shrink_factor: 3", (2, 3)),
    ("shrink_factor: 2 zoom_factor: 4", (9, 13)),
    ("shrink_factor: 2 zoom_factor: 4 height: 6 width: 4", (6, 4)),
    ("zoom_factor: 2 height: 6 width: 4", (9, 13)),  # a single factor comes before the size
    ("shrink_factor: 2 height: 6 width: 4", (3, 4)),
    ("height: 6 width: 6 pad_beg: -1 pad_end: -2", (6, 6)),
    ("zoom_factor: 2 pad_beg: -2", (5, 9)),
]


@pytest.mark.parametrize(("param", "size"), CASES)
def test_value_gradient_and_onnx(param, size):
    net = layer_net(body(param), SHAPE, phase=pb.TEST)
    layer = net.nodes[-1].layer
    x = torch.randn(SHAPE)
    (y,) = run(layer, x)
    assert y.shape[2:] == size
    cut = -layer.param.pad_beg, -layer.param.pad_end
    assert_close(y, plain(x.double().numpy(), *size, cut))
    check_onnx(net)
    gradcheck(layer, torch.randn(1, 2, 5, 7))


def test_corners_stay():
    x = torch.randn(SHAPE)
    (y,) = run(make_layer(body("height: 11 width: 4"), SHAPE), x)
    for row in (0, -1):
        for column in (0, -1):
            assert_close(y[:, :, row, column], x[:, :, row, column])


def test_plane_of_one_place_fills_the_top():
    x = torch.randn(2, 3, 1, 1)
    (y,) = run(make_layer(body("height: 3 width: 4"), x.shape), x)
    assert torch.equal(y, x.expand(2, 3, 3, 4))


def test_layout_of_the_bottom_and_the_batch_make_no_difference():
    layer = make_layer(body("zoom_factor: 2 pad_end: -1"), SHAPE)
    x = torch.randn(5, 3, 5, 7)
    assert_close(run(layer, x.to(memory_format=torch.channels_last))[0], layer(x))


@pytest.mark.parametrize(
    ("param", "shape", "words"),
    [
        ("", SHAPE, "give height and width, or shrink_factor, or zoom_factor"),
        ("height: 3", SHAPE, "give height and width"),
        ("zoom_factor: 0", SHAPE, "Zoom factor must be positive"),
        ("shrink_factor: -1", SHAPE, "Shrink factor must be positive"),
        ("zoom_factor: 2 pad_beg: 1", SHAPE, "Only supports non-pos padding .*pad_beg=1"),
        ("zoom_factor: 2 pad_end: 1", SHAPE, "Only supports non-pos padding"),
        ("zoom_factor: 2 pad_beg: -3 pad_end: -2", SHAPE, "height should be positive"),
        ("height: 0 width: 3", SHAPE, "height should be positive"),
        ("height: 3 width: -3", SHAPE, "width should be positive"),
        ("zoom_factor: 2", (2, 3, 5), "Input must have 4 axes"),
        ("zoom_factor: 2000000000", SHAPE, "top 'y0' is too large"),
        ("height: 2000000000 width: 2000000000", SHAPE, "top 'y0' is too large"),
    ],
)
def test_mistake_is_reported(param, shape, words):
    with pytest.raises(NetError, match=words):
        make_layer(body(param), shape)
