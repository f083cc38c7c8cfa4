from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, gradcheck, layer_net, make_layer, run


def body(param: str) -> str:
    return f'type: "Reorg" reorg_param {{ {param} }}'


def plain(x: np.ndarray, s: int, reverse: bool) -> np.ndarray:
    """Move a sample's values in memory as darknet does, given the bottom's sizes."""
    records, channels, height, width = x.shape
    planes = channels // (s * s)
    y = np.empty((records, x[0].size), x.dtype)
    for record, values in enumerate(x.reshape(records, -1)):
        for c, h, w in np.ndindex(channels, height, width):
            small = (c * height + h) * width + w
            square, plane = divmod(c, planes)
            row, column = h * s + square // s, w * s + square % s
            large = (plane * height * s + row) * width * s + column
            if reverse:
                y[record, large] = values[small]
            else:
                y[record, small] = values[large]
    if reverse:
        return y.reshape(records, planes, height * s, width * s)
    return y.reshape(records, channels * s * s, height // s, width // s)


CASES = [
    ("stride: 2", (2, 8, 4, 6)),
    ("stride: 2", (1, 4, 2, 2)),
    ("stride: 3", (2, 9, 3, 6)),
    ("stride: 2 reverse: true", (2, 8, 3, 5)),
    ("stride: 3 reverse: true", (2, 18, 2, 1)),
    ("stride: 1", (2, 3, 2, 5)),
]


@pytest.mark.parametrize(("param", "shape"), CASES)
def test_values_move_as_in_darknet(param, shape):
    x = torch.randn(shape)
    layer = make_layer(body(param), shape)
    (y,) = run(layer, x)
    want = plain(x.numpy(), layer.param.stride, layer.param.reverse)
    assert np.array_equal(y.numpy(), want)


def test_a_small_record_by_hand():
    # 4 planes of 2 x 2 are read as 1 plane of 4 x 4; its upper left corners come first.
    x = torch.arange(16.0).reshape(1, 4, 2, 2)
    (y,) = run(make_layer(body("stride: 2"), x.shape), x)
    want = [0, 2, 8, 10, 1, 3, 9, 11, 4, 6, 12, 14, 5, 7, 13, 15]
    assert y.flatten().tolist() == want and y.shape == (1, 16, 1, 1)


def test_reversed_is_depth_to_space():
    x = torch.randn(2, 8, 3, 5)
    (y,) = run(make_layer(body("stride: 2 reverse: true"), x.shape), x)
    for i in range(2):
        for j in range(2):
            assert torch.equal(y[:, :, i::2, j::2], x[:, (2 * i + j) * 2 : (2 * i + j + 1) * 2])


@pytest.mark.parametrize(("param", "shape"), CASES)
def test_gradient_onnx_layout_and_batch(param, shape):
    layer = make_layer(body(param), shape)
    x = torch.randn(3, *shape[1:])
    assert torch.equal(layer(x.to(memory_format=torch.channels_last)), run(layer, x)[0])
    gradcheck(layer, torch.randn(1, *shape[1:]))
    check_onnx(layer_net(body(param), shape, phase=pb.TEST))


@pytest.mark.parametrize(
    ("param", "shape", "words"),
    [
        ("", (1, 4, 2, 2), "Reorg Layer needs stride param"),
        ("stride: 0", (1, 4, 2, 2), "Reorg Layer needs stride param"),
        ("stride: 2", (4, 2, 2), "Input must have 4 axes"),
        ("stride: 2", (1, 3, 2, 2), r"channels must be a multiple of stride\^2.*channels=3"),
        ("stride: 2 reverse: true", (1, 6, 2, 2), "channels must be a multiple"),
        ("stride: 2", (1, 4, 3, 2), "height and width must be multiples of stride"),
    ],
)
def test_mistake_is_reported(param, shape, words):
    with pytest.raises(NetError, match=words):
        make_layer(body(param), shape)


def test_absurd_stride_is_refused_before_memory_is_taken():
    with pytest.raises(NetError, match="channels must be a multiple"):
        make_layer(body("stride: 4000000000"), (1, 4, 2, 2))
