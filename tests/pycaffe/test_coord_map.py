from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import caffe_kd as caffe
from caffe_kd import layers as L
from caffe_kd.coord_map import (
    AxisMismatchException,
    UndefinedMapException,
    compose,
    coord_map,
    coord_map_from_to,
    crop,
    inverse,
)
from caffe_kd.net import Net


def spec(
    ks: Any = 3, stride: Any = 1, pad: Any = 0, pool: int = 2, dstride: Any = 2, dpad: int = 0
) -> caffe.NetSpec:
    """Return a net that convolves, pools and brings back the size."""
    n = caffe.NetSpec()
    n.data = L.Input(shape={"dim": [2, 1, 100, 100]})
    n.aux = L.Input(shape={"dim": [2, 1, 20, 20]})
    n.conv = L.Convolution(n.data, num_output=10, kernel_size=ks, stride=stride, pad=pad)
    n.pool = L.Pooling(n.conv, kernel_size=pool, stride=pool, pad=0)
    n.deconv = L.Deconvolution(
        n.pool, num_output=10, kernel_size=2 * dstride, stride=dstride, pad=dpad
    )
    return n


def mapped(n: caffe.NetSpec, top: str = "deconv", to: str = "data") -> Any:
    return coord_map_from_to(n[top], n[to])


def test_pooling_and_deconvolution_of_one_factor_cancel_out() -> None:
    assert mapped(spec()) == (1, 1, 0)
    assert mapped(spec(pool=4, dstride=4)) == (1, 1, -1)


def test_layers_that_move_nothing_pass_through() -> None:
    n = spec()
    n.relu = L.ReLU(n.deconv)
    n.one = L.Convolution(n.relu, num_output=10, kernel_size=1, stride=1, pad=0)
    assert mapped(n, "relu") == mapped(n, "one") == mapped(n)


@pytest.mark.parametrize("pad", [0, 3, 10])
def test_padding_shifts_and_shifts_back(pad: int) -> None:
    _, scale, offset = mapped(spec())
    assert mapped(spec(pad=pad))[1:] == (scale, offset - pad)
    assert mapped(spec(dpad=pad))[1:] == (scale, offset + pad)
    assert mapped(spec(pad=pad, dpad=pad))[1:] == (scale, offset)


def test_bottoms_of_one_layer_have_equal_maps() -> None:
    n = spec()
    n.a, n.b = L.Convolution(n.data, n.aux, ntop=2, num_output=10, kernel_size=5, stride=2, pad=0)
    assert mapped(n, "a") == mapped(n, "b", "aux") == (1, 2, 2)


def test_rectangle_is_mapped_as_its_sides() -> None:
    three, five = mapped(spec(ks=3)), mapped(spec(ks=5, stride=2, pad=10))
    axis, scale, offset = mapped(spec(ks=[3, 5], stride=[1, 2], pad=[0, 10]))
    assert axis == three[0] == five[0]
    np.testing.assert_array_equal(scale, [three[1][0], five[1][0]])
    np.testing.assert_array_equal(offset, [three[2][0], five[2][0]])


def test_three_dimensions_are_mapped_as_two() -> None:
    n = caffe.NetSpec()
    n.data = L.Input(shape={"dim": [2, 3, 100, 100, 100]})
    n.conv = L.Convolution(
        n.data, num_output=10, kernel_size=[3, 3, 3], stride=[1, 1, 1], pad=[0, 1, 2]
    )
    n.pool = L.Pooling(n.conv, kernel_size=2, stride=2, pad=0)
    n.deconv = L.Deconvolution(n.pool, num_output=10, kernel_size=4, stride=2, pad=0)
    axis, scale, offset = mapped(n)
    assert axis == 1
    np.testing.assert_array_equal(scale, [1, 1, 1])
    np.testing.assert_array_equal(offset, [0, -1, -2])


@pytest.mark.parametrize("offset", [0, 7])
def test_crop_of_a_crop_adds_its_offset(offset: int) -> None:
    n = spec()
    axis, scale, shift = mapped(n)
    n.crop = L.Crop(n.deconv, n.data, axis=2, offset=offset)
    assert mapped(n, "crop") == (axis, scale, shift + offset)


def test_crop_makes_the_layer_that_gives_the_size_back() -> None:
    n = spec(pad=10)
    n.score = crop(n.deconv, n.data)
    layer = n.to_proto().layer[-1]
    assert (layer.crop_param.axis, list(layer.crop_param.offset)) == (2, [10])
    assert Net(n.to_proto()).shapes["score"] == (2, 10, 100, 100)


def test_unconnected_tops_have_no_map() -> None:
    n = spec()
    n.ip = L.InnerProduct(n.deconv, num_output=10)
    with pytest.raises(RuntimeError, match="Could not compute map between tops"):
        mapped(n, "ip")
    with pytest.raises(UndefinedMapException, match="InnerProduct"):
        coord_map(n.ip.fn)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pool": 3, "dstride": 2}, "scale mismatch on crop"),
        ({"dpad": 10}, "cannot crop negative offset"),
        ({"ks": 4, "pad": 5}, "cannot crop noninteger offset"),
    ],
)
def test_crop_that_cannot_fit_is_refused(settings: dict[str, int], words: str) -> None:
    n = spec(**settings)
    with pytest.raises(AssertionError, match=words):
        crop(n.deconv, n.data)


def test_sizes_by_height_and_width_are_refused() -> None:
    conv = L.Convolution(L.Input(), kernel_h=3, kernel_w=5, num_output=1)
    with pytest.raises(AssertionError, match="legacy _h/_w params.*kernel_h, kernel_w"):
        coord_map(conv.fn)


def test_maps_compose_and_invert() -> None:
    there = (1, 0.5, 3.0)
    assert compose(there, inverse(there)) == (1, 1, 0)
    assert compose((None, 1, 0), there) == compose(there, (None, 1, 0)) == there
    with pytest.raises(AxisMismatchException):
        compose(there, (2, 1, 0))


def test_dilation_widens_the_kernel() -> None:
    conv = L.Convolution(L.Input(), convolution_param={"kernel_size": 3, "dilation": 2, "pad": 2})
    assert coord_map(conv.fn) == (1, 1, 0)
