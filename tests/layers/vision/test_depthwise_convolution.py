from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, gradcheck, layer_net, make_layer, run

TYPES = ["DepthwiseConvolution", "ConvolutionDepthwise"]
KERNEL = "kernel_size: 3 pad: 1 stride: 2"


def body(kind: str, param: str) -> str:
    filler = 'weight_filler { type: "xavier" } bias_filler { type: "uniform" }'
    return f'type: "{kind}" convolution_param {{ {param} {filler} }}'


def by_loops(x, weight, bias, stride, pad):
    """The fork's loops: each filter sees one channel; those of a channel lie together."""
    count, channels, height, width = x.shape
    filters, _, kernel, _ = weight.shape
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    places = [(size + 2 * pad - kernel) // stride + 1 for size in (height, width)]
    y = np.zeros((count, filters, *places))
    for o in range(filters):
        channel = o // (filters // channels)
        for i in range(places[0]):
            for j in range(places[1]):
                rows = slice(i * stride, i * stride + kernel)
                columns = slice(j * stride, j * stride + kernel)
                part = padded[:, channel, rows, columns] * weight[o, 0]
                y[:, o, i, j] = part.sum((1, 2)) + bias[o]
    return y


@pytest.mark.parametrize("kind", TYPES)
def test_each_channel_is_filtered_alone(kind):
    layer = make_layer(body(kind, f"num_output: 4 {KERNEL}"), (2, 4, 6, 5))
    assert layer.blob_shapes == [(4, 1, 3, 3), (4,)]
    x = torch.randn(2, 4, 6, 5)
    (y,) = run(layer, x)
    want = by_loops(x.numpy(), *(b.detach().numpy() for b in layer.blobs), stride=2, pad=1)
    # Float32 sums of ten terms.
    np.testing.assert_allclose(y.detach().numpy(), want, rtol=1e-5, atol=1e-6)
    gradcheck(layer, x)
    check_onnx(layer_net(body(kind, f"num_output: 4 {KERNEL}"), (2, 4, 6, 5), phase=pb.TEST))


def test_several_filters_for_a_channel_lie_together():
    layer = make_layer(
        body("DepthwiseConvolution", f"num_output: 6 group: 3 {KERNEL}"), (2, 3, 5, 5)
    )
    assert layer.blob_shapes == [(6, 1, 3, 3), (6,)]
    x = torch.randn(2, 3, 5, 5)
    (y,) = run(layer, x)
    want = by_loops(x.numpy(), *(b.detach().numpy() for b in layer.blobs), stride=2, pad=1)
    np.testing.assert_allclose(y.detach().numpy(), want, rtol=1e-5, atol=1e-6)


def test_weights_of_a_grouped_convolution_give_the_same():
    x = torch.randn(2, 4, 6, 5)
    plain = make_layer(body("Convolution", f"num_output: 4 group: 4 {KERNEL}"), x.shape)
    layer = make_layer(body("DepthwiseConvolution", f"num_output: 4 {KERNEL}"), x.shape)
    for mine, theirs in zip(layer.blobs, plain.blobs, strict=True):
        mine.data = theirs.data.clone()
    torch.testing.assert_close(layer(x), plain(x))


@pytest.mark.parametrize("kind", TYPES)
def test_num_output_may_be_left_out_and_the_nets_message_stays_as_it_is(kind):
    layer = make_layer(body(kind, KERNEL), (2, 4, 6, 5))
    assert layer.blob_shapes == [(4, 1, 3, 3), (4,)]
    assert not layer.proto.convolution_param.HasField("num_output")
    assert not layer.proto.convolution_param.HasField("group")


@pytest.mark.parametrize(
    ("kind", "param", "words"),
    [
        ("DepthwiseConvolution", "num_output: 6", "num_output must be a multiple .* num_output=6"),
        ("ConvolutionDepthwise", "num_output: 8", "num_output must be the bottom's channels"),
        ("DepthwiseConvolution", "group: 2", "group must be the bottom's channels.*group=2"),
        ("ConvolutionDepthwise", "pad_h: 1 pad: 1", "Either pad or pad_h/w should be specified"),
    ],
)
def test_mistake_is_reported(kind, param, words):
    with pytest.raises(NetError, match=words):
        make_layer(body(kind, f"kernel_size: 3 {param}"), (2, 4, 6, 5))
