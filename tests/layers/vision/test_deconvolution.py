from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, golden_case, gradcheck, layer_net, make_layer, make_net, run

FILLERS = 'weight_filler { type: "gaussian" std: 0.5 } bias_filler { type: "gaussian" }'


def body(param: str) -> str:
    return f'type: "Deconvolution" convolution_param {{ {param} {FILLERS} }}'


@pytest.mark.parametrize("name", ["deconv_basic", "deconv_pad_group"])
def test_deconvolution_equals_the_original(name):
    golden_case(name)


CASES = [
    ("num_output: 4 kernel_size: 3 stride: 2", (2, 3, 5, 4), (2, 4, 11, 9)),
    ("num_output: 4 kernel_size: 3 stride: 2 pad: 1", (2, 3, 5, 4), (2, 4, 9, 7)),
    ("num_output: 4 kernel_size: 2 pad: 2", (2, 3, 5, 4), (2, 4, 2, 1)),  # pad above the kernel
    ("num_output: 4 kernel_size: 3 dilation: 2 stride: 3", (1, 3, 3, 2), (1, 4, 11, 8)),
    ("num_output: 6 kernel_h: 1 kernel_w: 4 group: 3", (2, 3, 3, 2), (2, 6, 3, 5)),
    (
        "num_output: 3 kernel_size: 4 stride: 2 group: 3 bias_term: false",
        (1, 3, 2, 2),
        (1, 3, 6, 6),
    ),
    ("num_output: 2 kernel_size: 3 stride: 2", (2, 3, 4), (2, 2, 9)),
    ("num_output: 2 kernel_size: 2 stride: 2", (1, 2, 2, 2, 2), (1, 2, 4, 4, 4)),
    ("num_output: 4 kernel_size: 2 axis: 2", (2, 3, 3, 2, 2), (2, 3, 4, 3, 3)),
    ("num_output: 4 kernel_size: 1", (2, 3), (2, 4)),  # no spatial axis
]


@pytest.mark.parametrize(("param", "shape", "top"), CASES)
def test_shape_gradient_and_onnx(param, shape, top):
    layer = make_layer(body(param), shape)
    x = torch.randn(shape)
    (y,) = run(layer, x)
    assert tuple(y.shape) == top
    gradcheck(layer, x)
    check_onnx(layer_net(body(param), shape, phase=pb.TEST))


@pytest.mark.parametrize(
    ("param", "shape"), [(p, s) for p, s, _ in CASES if len(s) == 4 and "axis" not in p]
)
def test_deconvolution_is_the_backward_pass_of_the_convolution(param, shape):
    layer = make_layer(body(param), shape).double()
    bias = layer.blobs[1].view(1, -1, 1, 1) if layer.param.bias_term else 0
    x = torch.randn(shape, dtype=torch.float64)
    (y,) = layer(x)
    w = layer.window
    want = torch.nn.grad.conv2d_input(
        y.shape, layer.blobs[0], x, w.stride, w.pad, w.dilation, layer.param.group
    )
    torch.testing.assert_close(y, want + bias)


def test_values_are_laid_out_patch_by_patch():
    layer = make_layer('type: "Deconvolution" convolution_param { num_output: 1 kernel_size: 3 '
                       'stride: 2 bias_term: false weight_filler { type: "constant" value: 1 } }',
                       (1, 1, 1, 2))  # fmt: skip
    (y,) = layer(torch.tensor([[[[1.0, 10.0]]]]))
    assert y[0, 0].tolist() == [[1, 1, 11, 10, 10]] * 3


def test_weight_has_the_bottoms_channels_first():
    layer = make_layer(body("num_output: 6 kernel_size: 2 group: 3"), (1, 3, 4, 4))
    assert [tuple(b.shape) for b in layer.blobs] == [(3, 2, 2, 2), (6,)]


@pytest.mark.parametrize("factor", [2, 3, 4, 5])
def test_bilinear_filler_enlarges(factor):
    kernel, pad = 2 * factor - factor % 2, math.ceil((factor - 1) / 2)
    layer = make_layer(
        'type: "Deconvolution" convolution_param { num_output: 2 group: 2 bias_term: false '
        f"kernel_size: {kernel} stride: {factor} pad: {pad} "
        'weight_filler { type: "bilinear" } }',
        (1, 2, 6, 5),
    )
    ramp = torch.arange(6.0).view(6, 1) + 10 * torch.arange(5.0)
    x = torch.stack((ramp, torch.ones(6, 5))).unsqueeze(0)
    (y,) = run(layer, x)
    assert tuple(y.shape) == (1, 2, 6 * factor, 5 * factor)
    want = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    inner = slice(factor, -factor)  # outside the first and last places the patches are cut off
    torch.testing.assert_close(y[..., inner, inner], want[..., inner, inner])


def test_bilinear_filler_needs_a_square():
    with pytest.raises(NetError, match="filler 'bilinear'.*Filter must be square"):
        make_layer(
            'type: "Deconvolution" convolution_param { num_output: 2 kernel_h: 3 kernel_w: 4 '
            'weight_filler { type: "bilinear" } }',
            (1, 2, 6, 5),
        )


def test_several_bottoms_share_the_weights():
    net = make_net(
        f"""
        layer {{ name: "in" type: "Input" top: "a" top: "b"
                input_param {{ shape {{ dim: 1 dim: 3 dim: 5 dim: 5 }} }} }}
        layer {{ name: "L" bottom: "a" bottom: "b" top: "c" top: "d"
                {body("num_output: 2 kernel_size: 3")} }}
        """
    )
    x = torch.randn(1, 3, 5, 5)
    net({"a": x, "b": x})
    assert torch.equal(net.blobs["c"], net.blobs["d"])
    assert len(net.params) == 2
    check_onnx(net)


def test_channels_last_gives_the_same_numbers():
    layer = make_layer(body("num_output: 4 kernel_size: 3 pad: 1 stride: 2"), (2, 3, 6, 6))
    x = torch.randn(2, 3, 6, 6)
    got = layer(x.contiguous(memory_format=torch.channels_last))[0]
    torch.testing.assert_close(got, layer(x)[0])


@pytest.mark.parametrize(
    ("param", "words"),
    [
        ("num_output: 4", "kernel_size must be specified once, or once per spatial dimension"),
        ("kernel_size: 3", "num_output must be at least 1"),
        ("num_output: 4 kernel_size: 3 group: 2", "channels should be multiples of group"),
        ("num_output: 4 kernel_size: 3 group: 3", "Number of output should be multiples of group"),
        ("num_output: 4 kernel_size: 3 pad: 5", "the padding removes the whole top"),
        ("num_output: 4 kernel_size: 3 stride: 0", "Stride must be nonzero"),
        ("num_output: 9 kernel_size: 3 stride: 100000", "the top is too large: blob size exceeds"),
    ],
)
def test_mistake_is_reported(param, words):
    with pytest.raises(NetError, match=words) as error:
        make_layer(f'type: "Deconvolution" convolution_param {{ {param} }}', (2, 3, 8, 8))
    assert str(error.value).startswith("net.prototxt:2: layer 'L' (Deconvolution): ")
