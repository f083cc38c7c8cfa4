from __future__ import annotations

import itertools

import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, gradcheck, layer_net, make_layer, run

SHAPE = (2, 3, 4, 5)


def body(*order: int) -> str:
    return 'type: "Permute" permute_param { ' + " ".join(f"order: {o}" for o in order) + " }"


@pytest.mark.parametrize("order", [(0, 2, 3, 1), (3, 1, 0, 2), (1, 0, 2, 3), (0, 1, 2, 3)])
def test_axis_of_the_top_is_the_one_that_order_names(order):
    x = torch.randn(SHAPE)
    (y,) = run(make_layer(body(*order), SHAPE), x)
    for place in itertools.product(*map(range, SHAPE)):
        assert y[tuple(place[axis] for axis in order)] == x[place]


def test_axes_that_order_leaves_out_follow():
    x = torch.randn(SHAPE)
    (y,) = run(make_layer(body(2), SHAPE), x)
    assert torch.equal(y, x.permute(2, 0, 1, 3))
    assert torch.equal(run(make_layer(body(), SHAPE), x)[0], x)


@pytest.mark.parametrize("order", [(0, 2, 3, 1), (0, 1, 2, 3)])
def test_gradient_and_onnx(order):
    gradcheck(make_layer(body(*order), SHAPE), torch.randn(SHAPE))
    check_onnx(layer_net(body(*order), SHAPE, phase=pb.TEST))


def test_layout_of_the_bottom_and_the_batch_make_no_difference():
    layer = make_layer(body(0, 2, 3, 1), SHAPE)
    x = torch.randn(5, 3, 4, 5)
    (y,) = run(layer, x.to(memory_format=torch.channels_last))
    assert torch.equal(y, x.permute(0, 2, 3, 1))


def test_records_are_apart_where_their_axis_stays_in_front():
    assert make_layer(body(0, 2, 1), SHAPE).per_sample
    assert not make_layer(body(1, 0), SHAPE).per_sample


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (
            (0, 4),
            r"order should be less than the input dimension. Received: order=\[0, 4\], axes=4",
        ),
        ((0, 2, 2), r"there are duplicate orders. Received: order=\[0, 2, 2\]"),
    ],
)
def test_mistake_is_reported(order, words):
    with pytest.raises(NetError, match=words):
        make_layer(body(*order), SHAPE)
