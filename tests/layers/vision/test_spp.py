from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, golden_case, gradcheck, layer_net, make_layer, run

# Planes that 1, 2 and 4 windows a side fit, with and without a rest.
PLANES = [(8, 8), (9, 11), (6, 7), (4, 12), (16, 9)]


def body(param: str) -> str:
    return f'type: "SPP" spp_param {{ {param} }}'


def by_hand(plane, levels, is_max):
    """Pool one plane as Caffe does: a Pooling for each level, the rest half padded."""
    values = []
    for level in range(levels):
        bins, lines = 2**level, []
        for size in plane.shape:
            kernel = math.ceil(size / bins)
            pad = (kernel * bins - size + 1) // 2
            places = math.ceil((size + 2 * pad - kernel) / kernel) + 1
            if pad and (places - 1) * kernel >= size + pad:
                places -= 1
            starts = [place * kernel - pad for place in range(places)]
            # Where a window begins and ends, and how much of it counts for a mean.
            ends = [min(start + kernel, size + pad) for start in starts]
            lines.append(list(zip(starts, ends, strict=True)))
        for top, bottom in lines[0]:
            for left, right in lines[1]:
                part = plane[max(top, 0) : bottom, max(left, 0) : right]
                counted = (bottom - top) * (right - left)
                values.append(part.max() if is_max else part.sum() / counted)
    return values


def test_spp_equals_the_original():
    golden_case("spp_max")


@pytest.mark.parametrize("pool", ["MAX", "AVE"])
@pytest.mark.parametrize("plane", PLANES)
def test_spp_is_the_pyramid_of_poolings(pool, plane):
    layer = make_layer(body(f"pyramid_height: 3 pool: {pool}"), (2, 3, *plane))
    x = torch.randn(2, 3, *plane, dtype=torch.float64)
    (y,) = run(layer, x)
    for record in range(2):
        planes = [by_hand(x[record, c].numpy(), 3, pool == "MAX") for c in range(3)]
        # Level by level, and in each channel by channel.
        start, want = 0, []
        for level in range(3):
            count = len(by_hand(x[0, 0].numpy(), level + 1, True))
            want += [v for values in planes for v in values[start:count]]
            start = count
        np.testing.assert_allclose(y[record], want, rtol=1e-12)
    gradcheck(layer, x[:1])


def test_number_of_values_is_that_of_the_windows_for_any_plane():
    layer = make_layer(body("pyramid_height: 3"), (1, 2, 8, 8))
    for plane in PLANES:
        assert tuple(run(layer, torch.randn(3, 2, *plane))[0].shape) == (3, 2 * (1 + 4 + 16))


def test_one_level_keeps_four_axes():
    x = torch.randn(2, 3, 5, 7)
    (y,) = run(make_layer(body("pyramid_height: 1"), x.shape), x)
    assert torch.equal(y, x.amax((2, 3), keepdim=True))


@pytest.mark.parametrize("pool", ["MAX", "AVE"])
@pytest.mark.parametrize("levels", [1, 3])
def test_onnx_equals_forward(pool, levels):
    param = f"pyramid_height: {levels} pool: {pool}"
    check_onnx(layer_net(body(param), (2, 3, 9, 11), phase=pb.TEST))


@pytest.mark.parametrize(
    ("param", "words"),
    [
        ("", "pyramid_height must be at least 1. Received: pyramid_height=0"),
        (
            "pyramid_height: 4",
            r"level 2 of the pyramid is too fine.*plane=\(5, 7\), kernel=\(2, 2\), pad=\(2, 1\)",
        ),
        ("pyramid_height: 4294967295", "is too fine for the plane"),
        ("pyramid_height: 1 pool: STOCHASTIC", "STOCHASTIC is not implemented.*on the CPU"),
    ],
)
def test_mistake_is_reported(param, words):
    with pytest.raises(NetError, match=words) as error:
        make_layer(body(param), (2, 3, 5, 7))
    assert str(error.value).startswith("net.prototxt:2: layer 'L' (SPP): ")


def test_bottom_of_three_axes_is_refused():
    with pytest.raises(NetError, match="Input must have 4 axes"):
        make_layer(body("pyramid_height: 1"), (3, 8, 8))
