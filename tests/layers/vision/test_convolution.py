from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, golden_case, gradcheck, layer_net, make_layer, make_net, run


def conv(param: str, *shapes, tops=1, phase=pb.TRAIN):
    weights = 'weight_filler { type: "gaussian" std: 0.5 } bias_filler { type: "gaussian" }'
    return make_layer(
        f'type: "Convolution" convolution_param {{ {param} {weights} }}',
        *shapes,
        tops=tops,
        phase=phase,
    )


@pytest.mark.parametrize(
    "name",
    [
        "conv_basic",
        "conv_1x1",
        "conv_3d",
        "conv_group",
        "conv_pad_stride",
        "conv_rect",
        "conv_two_bottoms",
    ],
)
def test_convolution_equals_the_original(name):
    golden_case(name)


@pytest.mark.parametrize(
    ("param", "shape", "top"),
    [
        ("num_output: 4 kernel_size: 3 stride: 2", (2, 3, 8, 7), (2, 4, 3, 3)),  # rounds down
        ("num_output: 4 kernel_size: 3 dilation: 2 pad: 2", (2, 3, 8, 7), (2, 4, 8, 7)),
        ("num_output: 4 kernel_size: 3 kernel_size: 1 pad: 1 pad: 0", (1, 3, 8, 7), (1, 4, 8, 7)),
        ("num_output: 4 kernel_size: 2", (2, 3, 9), (2, 4, 8)),  # one spatial axis
        ("num_output: 4 kernel_size: 2 pad: 1", (2, 3, 3, 4, 2), (2, 4, 4, 5, 3)),  # three
        (
            "num_output: 4 kernel_size: 3 kernel_size: 1 kernel_size: 2 pad: 1 pad: 0 pad: 2 "
            "stride: 2 stride: 1 stride: 3 dilation: 1 dilation: 1 dilation: 2 group: 2",
            (1, 4, 5, 2, 4),
            (1, 4, 3, 2, 2),
        ),
        ("num_output: 6 group: 3 kernel_size: 1", (2, 3, 4, 4), (2, 6, 4, 4)),
        ("num_output: 4 kernel_size: 2 axis: 2", (2, 5, 3, 4, 4), (2, 5, 4, 3, 3)),
        ("num_output: 4 kernel_size: 2 axis: 0", (3, 4, 4), (4, 3, 3)),
        ("num_output: 4 kernel_size: 2 axis: -3", (2, 3, 4, 4), (2, 4, 3, 3)),
        ("num_output: 4 kernel_size: 1", (2, 3), (2, 4)),  # no spatial axis
    ],
)
def test_shapes_and_gradient(param, shape, top):
    layer = conv(param, shape)
    x = torch.randn(shape)
    (y,) = run(layer, x)
    assert tuple(y.shape) == top
    gradcheck(layer, x)


def test_axis_counts_what_is_before_it_as_records():
    layer = conv("num_output: 4 kernel_size: 2 axis: 2", (2, 5, 3, 4, 4))
    x = torch.randn(2, 5, 3, 4, 4)
    (y,) = run(layer, x)
    one = F.conv2d(x[1], *layer.blobs)
    torch.testing.assert_close(y[1], one)


def test_blobs_are_shaped_and_filled_as_asked():
    layer = make_layer(
        'type: "Convolution" convolution_param { num_output: 4 kernel_h: 3 kernel_w: 2 group: 2 '
        'weight_filler { type: "constant" value: 2 } bias_filler { type: "constant" value: 3 } }',
        (1, 6, 8, 8),
    )
    weight, bias = layer.blobs
    assert tuple(weight.shape) == (4, 3, 3, 2)
    assert tuple(bias.shape) == (4,)
    assert (weight == 2).all()
    assert (bias == 3).all()


def test_several_bottoms_share_the_weights():
    layer = conv("num_output: 4 kernel_size: 3", (1, 3, 5, 5), (1, 3, 5, 5), tops=2)
    x = torch.randn(1, 3, 5, 5)
    a, b = run(layer, x, x)
    assert torch.equal(a, b)
    assert len(layer.blobs) == 2


def test_channels_last_gives_the_same_numbers():
    layer = conv("num_output: 4 kernel_size: 3 pad: 1 axis: 1", (2, 3, 6, 6))
    x = torch.randn(2, 3, 6, 6)
    want = layer(x)[0]
    got = layer(x.contiguous(memory_format=torch.channels_last))[0]
    torch.testing.assert_close(got, want)


def test_batch_and_extent_may_change_after_setup():
    layer = conv("num_output: 4 kernel_size: 3", (2, 3, 8, 8))
    (y,) = run(layer, torch.randn(5, 3, 6, 9))
    assert tuple(y.shape) == (5, 4, 4, 7)


@pytest.mark.parametrize(
    ("param", "words"),
    [
        ("num_output: 4", "kernel_size must be specified once, or once per spatial dimension"),
        (
            "num_output: 4 kernel_size: 3 kernel_size: 3 kernel_size: 3",
            r"\(kernel_size specified 3 times; 2 spatial dims\)",
        ),
        (
            "num_output: 4 kernel_size: 3 kernel_h: 3 kernel_w: 3",
            "Either kernel_size or kernel_h/w should be specified; not both",
        ),
        ("num_output: 4 kernel_h: 3", "Filter dimensions must be nonzero"),
        ("num_output: 4 kernel_size: 0", "Filter dimensions must be nonzero"),
        ("num_output: 4 kernel_size: 3 stride: 0", "Stride must be nonzero"),
        ("num_output: 4 kernel_size: 3 stride_h: 2", "Stride must be nonzero"),
        (
            "num_output: 4 kernel_size: 3 stride: 2 stride_h: 2 stride_w: 2",
            "Either stride or stride_h/w should be specified; not both",
        ),
        ("num_output: 4 kernel_size: 3 pad: 1 pad_h: 1", "Either pad or pad_h/w"),
        ("num_output: 4 kernel_size: 3 pad: 1 pad: 1 pad: 1", "pad must be specified once"),
        ("num_output: 4 kernel_size: 3 dilation: 0", "Dilation must be nonzero"),
        ("kernel_size: 3", "num_output must be at least 1"),
        ("num_output: 4 kernel_size: 3 group: 2", "channels should be multiples of group"),
        ("num_output: 4 kernel_size: 3 group: 3", "Number of output should be multiples of group"),
        ("num_output: 4 kernel_size: 9", "kernel is larger than the padded bottom"),
        ("num_output: 4 kernel_size: 3 axis: 4", "axis is out of range"),
        ("num_output: 4 kernel_size: 4000000000", "kernel is larger than the padded bottom"),
        # Reported before the weights, which would fit, take 2.4 GB.
        ("num_output: 200000000 kernel_size: 1", "the top is too large: blob size exceeds INT_MAX"),
    ],
)
def test_mistake_is_reported(param, words):
    with pytest.raises(NetError, match=words) as error:
        make_layer(f'type: "Convolution" convolution_param {{ {param} }}', (2, 3, 8, 8))
    assert str(error.value).startswith("net.prototxt:2: layer 'L' (Convolution): ")


def test_kernel_h_needs_two_spatial_axes():
    with pytest.raises(NetError, match="kernel_h & kernel_w can only be used for 2D convolution"):
        conv("num_output: 4 kernel_h: 3 kernel_w: 3", (2, 3, 8, 8, 8))


@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution"])
def test_four_spatial_axes_equal_three_where_the_first_is_one(kind):
    three = "num_output: 4 group: 2 " + "".join(
        f"{name}: {a} {name}: {b} {name}: {c} "
        for name, a, b, c in (
            *(("kernel_size", 3, 2, 3), ("stride", 2, 1, 2)),
            *(("pad", 1, 0, 2), ("dilation", 2, 1, 1)),
        )
    )
    one = {"kernel_size": 1, "stride": 1, "pad": 0, "dilation": 1}
    filler = 'weight_filler { type: "gaussian" } bias_filler { type: "gaussian" }'
    x = torch.randn(2, 2, 7, 5, 6)
    torch.manual_seed(1)
    (wanted,) = run(
        make_layer(f'type: "{kind}" convolution_param {{ {three} {filler} }}', x.shape), x
    )
    for place in range(4):  # the axis of size 1 among the four
        four = "num_output: 4 group: 2 "
        for name, first in one.items():
            numbers = [int(v) for v in re.findall(rf"{name}: (\d+)", three)]
            numbers.insert(place, first)
            four += "".join(f"{name}: {n} " for n in numbers)
        wide = x.unsqueeze(2 + place)
        torch.manual_seed(1)
        layer = make_layer(f'type: "{kind}" convolution_param {{ {four} {filler} }}', wide.shape)
        torch.testing.assert_close(run(layer, wide)[0].squeeze(2 + place), wanted)


@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution"])
def test_gradient_over_four_spatial_axes(kind):
    body = f'type: "{kind}" convolution_param {{ num_output: 1 kernel_size: 2 pad: 1 stride: 2 }}'
    layer = make_layer(body, (1, 1, 2, 3, 2, 2))
    gradcheck(layer, torch.randn(1, 1, 2, 3, 2, 2))


def test_bottoms_of_different_shapes_are_refused():
    with pytest.raises(NetError, match=r"shape mismatch - bottom\[0\]"):
        conv("num_output: 1 kernel_size: 1", (1, 3, 4, 4), (1, 3, 5, 5), tops=2)


def test_one_top_for_each_bottom_is_asked_for():
    with pytest.raises(NetError, match="one top for each bottom"):
        conv("num_output: 1 kernel_size: 1", (1, 3, 4, 4), (1, 3, 4, 4), tops=1)


def test_other_channels_later_are_refused():
    layer = conv("num_output: 1 kernel_size: 1", (1, 3, 4, 4))
    with pytest.raises(NetError, match="Input size incompatible with convolution kernel"):
        layer.top_shapes([(1, 4, 4, 4)])


@pytest.mark.parametrize(
    ("param", "shape"),
    [
        ("num_output: 4 kernel_h: 3 kernel_w: 2 pad_h: 2 stride_h: 2 stride_w: 1", (2, 4, 8, 7)),
        ("num_output: 4 kernel_size: 3 group: 2 dilation: 2 bias_term: false", (2, 4, 8, 8)),
        ("num_output: 4 kernel_size: 3 axis: 2", (2, 5, 3, 6, 6)),
        ("num_output: 4 kernel_size: 3 pad: 1 pad: 0 pad: 2 stride: 2 group: 2", (2, 4, 5, 4, 3)),
    ],
)
def test_onnx_equals_forward(param, shape):
    filler = 'weight_filler { type: "gaussian" } bias_filler { type: "gaussian" }'
    body = f'type: "Convolution" convolution_param {{ {param} {filler} }}'
    check_onnx(layer_net(body, shape, phase=pb.TEST))


def test_onnx_of_two_bottoms_equals_forward():
    check_onnx(
        make_net(
            """
            layer { name: "in" type: "Input" top: "a" top: "b"
                    input_param { shape { dim: 1 dim: 3 dim: 5 dim: 5 } } }
            layer { name: "L" type: "Convolution" bottom: "a" bottom: "b" top: "c" top: "d"
                    convolution_param { num_output: 2 kernel_size: 3
                                        weight_filler { type: "xavier" } } }
            """
        )
    )
