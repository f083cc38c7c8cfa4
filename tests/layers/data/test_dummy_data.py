from __future__ import annotations

import pytest
import torch

from caffe_kd.core.errors import NetError
from tests.helpers import make_layer, run


def dummy(param: str, tops: int = 1):
    return make_layer(f'type: "DummyData" dummy_data_param {{ {param} }}', tops=tops)


def test_constant_is_filled_once_and_random_each_time():
    layer = dummy(
        'shape { dim: 2 dim: 3 } data_filler { value: 4 } data_filler { type: "gaussian" }', tops=2
    )
    first, noise = run(layer)
    assert (first == 4).all()
    first.fill_(7)  # as a script may, to try something
    again, other = run(layer)
    assert (again == 7).all()
    assert not torch.equal(noise, other)


def test_no_filler_means_zeros():
    assert run(dummy("shape { dim: 3 }"))[0].tolist() == [0, 0, 0]


def test_shape_for_each_top():
    tops = run(dummy("shape { dim: 3 } shape { dim: 2 dim: 2 }", tops=2))
    assert [tuple(t.shape) for t in tops] == [(3,), (2, 2)]


def test_legacy_lists_give_four_axes():
    tops = run(dummy("num: 2 channels: 3 channels: 1 height: 4 width: 5 width: 6", tops=2))
    assert [tuple(t.shape) for t in tops] == [(2, 3, 4, 5), (2, 1, 4, 6)]


@pytest.mark.parametrize(
    ("param", "words"),
    [
        ("", "Must specify 'shape' once, or once per top blob"),
        ("shape { dim: 1 } num: 1", "Both shape and legacy fields were specified"),
        ("num: 1 channels: 1 height: 1", "Must specify 'width' once, or once per top blob"),
        ("shape { dim: 1 } shape { dim: 1 } shape { dim: 1 }", "specified 3"),
        (
            "shape { dim: 1 } data_filler { } data_filler { } data_filler { }",
            "Number of data fillers must be 0, 1 or equal to the number of tops: 2; you spec",
        ),
        ("shape { dim: 0 }", "every dim of top 'y0' must be at least 1"),
        ("shape { dim: 100000 dim: 100000 }", "blob size exceeds INT_MAX"),
        ('shape { dim: 1 } data_filler { type: "gausian" }', "Did you mean 'gaussian'"),
    ],
)
def test_mistake_is_reported(param, words):
    with pytest.raises(NetError, match=words):
        dummy(param, tops=2)


def test_bottom_is_refused():
    with pytest.raises(NetError, match=r"takes 0 bottom blob\(s\)"):
        make_layer('type: "DummyData" dummy_data_param { shape { dim: 1 } }', (2,))
