from __future__ import annotations

import pytest
import torch

from caffe_kd.core.errors import NetError
from tests.helpers import make_net


def input_layer(param: str, tops: str = 'top: "a" top: "b"'):
    return make_net(f'layer {{ name: "in" type: "Input" {tops} input_param {{ {param} }} }}')


def test_one_shape_serves_all_tops_and_values_are_zero_at_first():
    net = input_layer("shape { dim: 2 dim: 3 }")
    net.forward()
    assert net.inputs == ["a", "b"]
    assert torch.equal(net.blobs["a"], torch.zeros(2, 3))
    assert torch.equal(net.blobs["b"], torch.zeros(2, 3))


def test_values_that_are_set_stay_and_bring_their_shape():
    net = input_layer("shape { dim: 2 } shape { dim: 1 }")
    net.forward({"a": torch.ones(5)})
    net.forward()
    assert torch.equal(net.blobs["a"], torch.ones(5))
    assert tuple(net.blobs["b"].shape) == (1,)


@pytest.mark.parametrize(
    ("param", "words"),
    [
        ("", "Must specify 'shape' once, or once per top blob"),
        ("shape { dim: 1 } shape { dim: 1 } shape { dim: 1 }", "shapes=3"),
        ("shape { dim: 2 dim: 0 }", "every dim of top 'a' must be at least 1"),
        ("shape { dim: -1 }", "every dim of top 'a' must be at least 1"),
        ("shape { dim: 100000 dim: 100000 }", "blob size exceeds INT_MAX"),
    ],
)
def test_mistake_is_reported(param, words):
    with pytest.raises(NetError, match=words):
        input_layer(param)


def test_input_that_does_not_exist_is_reported():
    net = input_layer("shape { dim: 2 }", 'top: "data"')
    with pytest.raises(NetError, match="no input 'dat'. Did you mean 'data'[?] Inputs: data"):
        net.forward({"dat": torch.zeros(2)})
