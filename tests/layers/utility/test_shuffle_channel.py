from __future__ import annotations

import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, gradcheck, layer_net, make_layer, run


def body(param: str) -> str:
    return f'type: "ShuffleChannel" shuffle_channel_param {{ {param} }}'


@pytest.mark.parametrize(
    ("param", "want"),
    [
        ("group: 2", [0, 3, 1, 4, 2, 5]),
        ("group: 3", [0, 2, 4, 1, 3, 5]),
        ("group: 6", [0, 1, 2, 3, 4, 5]),
        ("", [0, 1, 2, 3, 4, 5]),
    ],
)
@pytest.mark.parametrize("places", [(), (4,), (4, 5)])
def test_channels_are_dealt_out(param, want, places):
    shape = (2, 6, *places)
    x = torch.randn(shape)
    (y,) = run(make_layer(body(param), shape), x)
    assert torch.equal(y, x[:, want])


def test_another_shuffle_with_the_other_factor_undoes_it():
    x = torch.randn(2, 6, 4, 5)
    there, back = (make_layer(body(f"group: {g}"), x.shape) for g in (2, 3))
    assert torch.equal(back(there(x)), x)


def test_gradient_onnx_layout_and_batch():
    shape = (2, 6, 4, 5)
    layer = make_layer(body("group: 3"), shape)
    x = torch.randn(5, 6, 4, 5)
    assert torch.equal(layer(x.to(memory_format=torch.channels_last)), run(layer, x)[0])
    gradcheck(layer, torch.randn(shape))
    check_onnx(layer_net(body("group: 3"), shape, phase=pb.TEST))


@pytest.mark.parametrize(
    ("param", "shape", "words"),
    [
        ("group: 4", (2, 6), "Wrong group size: .*group=4, channels=6"),
        ("group: 0", (2, 6), "group must be greater than 0"),
        ("", (6,), "Number of axes of bottom blob must be >=2"),
    ],
)
def test_mistake_is_reported(param, shape, words):
    with pytest.raises(NetError, match=words):
        make_layer(body(param), shape)
