from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, golden_case, gradcheck, layer_net, make_layer, run

# Parameters and the shape of the bottom.
CASES = [
    ("kernel_size: 3", (2, 3, 6, 5)),
    ("kernel_size: 3 pad: 2 stride: 2", (2, 3, 7, 6)),
    ("kernel_h: 2 kernel_w: 3 pad_h: 0 pad_w: 1 stride_h: 3 stride_w: 1", (2, 3, 7, 6)),
    ("kernel_size: 2 dilation: 3 pad: 1 force_nd_im2col: true", (2, 3, 7, 6)),
    ("kernel_size: 2 stride: 2", (2, 3, 7)),
    ("kernel_size: 2 kernel_size: 1 kernel_size: 3 stride: 2 pad: 1", (1, 2, 4, 3, 5)),
    ("kernel_size: 2 dilation: 2", (1, 2, 3, 3, 4, 3)),
    ("axis: 2 kernel_size: 2 pad: 1", (2, 2, 3, 3, 4)),
    ("axis: -2 kernel_size: 2", (2, 3, 2, 5)),
    ("axis: 0 kernel_size: 2 stride: 2", (3, 5, 4)),
]


def body(param: str) -> str:
    return f'type: "Im2col" convolution_param {{ {param} }}'


def by_hand(layer, x):
    """Walk over channels, points of the window and places, as Caffe's loops do."""
    w, at = layer.window, layer.channel_axis
    (top,) = layer.top_shapes([x.shape])
    places, sizes = top[at + 1 :], x.shape[at + 1 :]
    y = np.zeros(top)
    for leading in np.ndindex(*x.shape[:at]):
        for c in range(x.shape[at]):
            for k, point in enumerate(np.ndindex(*w.kernel)):
                row = c * int(np.prod(w.kernel)) + k
                for place in np.ndindex(*places):
                    numbers = zip(place, point, w.stride, w.pad, w.dilation, strict=True)
                    source = tuple(o * s - p + i * d for o, i, s, p, d in numbers)
                    if all(0 <= i < e for i, e in zip(source, sizes, strict=True)):
                        y[(*leading, row, *place)] = x[(*leading, c, *source)]
    return y


def test_im2col_equals_the_original():
    golden_case("im2col")


@pytest.mark.parametrize(("param", "shape"), CASES)
def test_im2col_equals_the_originals_loops(param, shape):
    layer = make_layer(body(param), shape)
    x = torch.randn(shape)
    np.testing.assert_array_equal(run(layer, x)[0].numpy(), by_hand(layer, x.numpy()))
    gradcheck(layer, x)


@pytest.mark.parametrize(("param", "shape"), [c for c in CASES if len(c[1]) < 6])
def test_convolution_is_a_product_with_it(param, shape):
    columns = run(make_layer(body(param), shape), x := torch.randn(shape))[0]
    convolution = make_layer(
        f'type: "Convolution" convolution_param {{ {param} num_output: 4 bias_term: false '
        'weight_filler { type: "gaussian" } }',
        shape,
    )
    (want,) = run(convolution, x)
    weight, at = convolution.blobs[0].flatten(1), convolution.channel_axis
    product = torch.tensordot(weight, columns, dims=([1], [at])).movedim(0, at)
    # Float32 sums of at most some dozen terms in another order.
    torch.testing.assert_close(product, want, rtol=1e-5, atol=1e-5)


def test_force_nd_im2col_changes_nothing():
    x = torch.randn(1, 2, 5, 5)
    tops = [
        run(make_layer(body(f"kernel_size: 3 pad: 1 force_nd_im2col: {flag}"), x.shape), x)[0]
        for flag in ("true", "false")
    ]
    assert torch.equal(*tops)


def test_extents_may_change_after_setup_and_channels_last_is_taken():
    layer = make_layer(body("kernel_size: 2"), (1, 2, 4, 4))
    x = torch.randn(3, 2, 6, 5)
    (want,) = run(layer, x)
    assert torch.equal(layer(x.contiguous(memory_format=torch.channels_last)), want)


@pytest.mark.parametrize(("param", "shape"), CASES)
def test_onnx_equals_forward(param, shape):
    check_onnx(layer_net(body(param), shape, phase=pb.TEST))


@pytest.mark.parametrize(
    ("param", "shape", "words"),
    [
        ("", (2, 3, 4, 4), "kernel_size must be specified once, or once per spatial dimension"),
        ("kernel_size: 2", (2, 3), "must have a spatial axis after the channels"),
        ("kernel_size: 2 axis: 3", (2, 3, 4, 4), "must have a spatial axis"),
        ("kernel_size: 2 axis: 4", (2, 3, 4, 4), "axis is out of range"),
        ("kernel_size: 0", (2, 3, 4, 4), "Filter dimensions must be nonzero"),
        ("kernel_size: 2 stride: 0", (2, 3, 4, 4), "Stride must be nonzero"),
        ("kernel_h: 2 kernel_w: 2", (2, 3, 4), "can only be used for 2D convolution"),
        ("kernel_size: 5", (2, 3, 4, 4), "the kernel is larger than the padded bottom"),
        ("kernel_size: 1 stride: 4000000000 pad: 2000000000", (1, 1, 2, 2), "exceeds INT_MAX"),
    ],
)
def test_mistake_is_reported(param, shape, words):
    with pytest.raises(NetError, match=words):
        make_layer(body(param), shape)


def test_records_stay_apart_unless_the_channels_come_first():
    shape = (3, 5, 4)
    assert make_layer(body("axis: 1 kernel_size: 2"), shape).per_sample
    assert not make_layer(body("axis: 0 kernel_size: 2"), shape).per_sample
