from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import ExportError, NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, gradcheck, layer_net, make_layer, run

# Float32 means of some dozen values.
RTOL, ATOL = 1e-5, 1e-5
FILLERS = 'slope_filler { type: "uniform" min: 0.5 max: 2 } bias_filler { type: "gaussian" }'
SEGNET = 'scale_filler { type: "uniform" min: 0.5 max: 2 } shift_filler { type: "gaussian" }'
SHAPE = (4, 3, 5, 2)


def body(param: str) -> str:
    return f'type: "BN" bn_param {{ {param} }}'


def values(*blobs):
    return [blob.detach().numpy().reshape(1, -1, 1, 1).copy() for blob in blobs]


def close(got, want):
    np.testing.assert_allclose(got.detach().numpy(), want, rtol=RTOL, atol=ATOL)


def test_train_takes_the_batchs_statistics_and_keeps_running_ones():
    layer = make_layer(body(FILLERS + " momentum: 0.8 eps: 0.01"), SHAPE)
    assert layer.blob_shapes == [(1, 3, 1, 1)] * 4
    slope, bias, *_ = values(*layer.blobs)
    running_mean = running_var = 0
    for _ in range(2):
        x = torch.randn(SHAPE) * 3 + 1
        (y,) = run(layer, x)
        mean = x.numpy().mean((0, 2, 3), keepdims=True)
        var = x.numpy().var((0, 2, 3), keepdims=True)  # biased, as in the fork's CPU code
        close(y, slope * (x.numpy() - mean) / np.sqrt(var + 0.01) + bias)
        running_mean = 0.8 * running_mean + 0.2 * mean
        running_var = 0.8 * running_var + 0.2 * var
        close(layer.blobs[2], running_mean)
        close(layer.blobs[3], running_var)


@pytest.mark.parametrize(("phase", "frozen"), [(pb.TEST, "false"), (pb.TRAIN, "true")])
def test_running_statistics_are_used_in_test_and_where_frozen(phase, frozen):
    layer = make_layer(body(f"{FILLERS} frozen: {frozen}"), SHAPE, phase=phase)
    for blob, number in zip(layer.blobs[2:], (0.5, 4.0), strict=True):
        blob.data.fill_(number)
    slope, bias, *_ = values(*layer.blobs)
    x = torch.randn(SHAPE)
    (y,) = run(layer, x)
    close(y, slope * (x.numpy() - 0.5) / np.sqrt(4 + 1e-5) + bias)
    close(layer.blobs[3], np.full((1, 3, 1, 1), 4.0))
    assert layer.per_sample


def test_statistics_never_learn_and_frozen_nothing_does():
    free = layer_net(body(FILLERS) + " param { lr_mult: 1 }" * 4, SHAPE)
    assert [p.lr_mult for p in free.params] == [1, 1, 0, 0]
    frozen = layer_net(body(FILLERS + " frozen: true"), SHAPE)
    assert [p.lr_mult for p in frozen.params] == [0, 0, 0, 0]


def test_unfilled_slope_is_zero_and_a_frozen_variance_one():
    layer = make_layer(body("frozen: true"), SHAPE)
    assert [float(blob.mean()) for blob in layer.blobs] == [0, 0, 0, 1]


@pytest.mark.parametrize("phase", [pb.TRAIN, pb.TEST])
def test_segnets_learn_takes_the_batchs_statistics_in_either_phase(phase):
    layer = make_layer(body(SEGNET), SHAPE, tops=3, phase=phase)
    assert layer.blob_shapes == [(1, 3, 1, 1)] * 2
    scale, shift = values(*layer.blobs)
    x = torch.randn(SHAPE) * 2
    y, mean, var = run(layer, x)
    want_mean = x.numpy().mean((0, 2, 3), keepdims=True)
    want_var = x.numpy().var((0, 2, 3), keepdims=True)
    close(y, scale * (x.numpy() - want_mean) / np.sqrt(want_var + 1e-9) + shift)
    close(mean, want_mean)
    close(var, want_var)


def test_segnets_inference_is_scale_and_shift():
    layer = make_layer(body(SEGNET + " bn_mode: INFERENCE"), (2, 3, 4))
    scale, shift = (v.reshape(1, 3, 1) for v in values(*layer.blobs))
    x = torch.randn(2, 3, 4)
    (y,) = run(layer, x)
    close(y, scale * x.numpy() + shift)
    assert layer.per_sample
    gradcheck(layer, x)


@pytest.mark.parametrize("param", [FILLERS, SEGNET])
def test_gradient_through_the_batchs_statistics(param):
    layer = make_layer(body(param), (3, 2, 2, 2))
    gradcheck(layer, torch.randn(3, 2, 2, 2))


def test_one_value_for_a_channel_gives_the_bias():
    layer = make_layer(body(FILLERS), (1, 3))
    (y,) = run(layer, torch.randn(1, 3))
    close(y, layer.blobs[1].detach().numpy().reshape(1, 3))


def test_channels_last_gives_the_same_numbers():
    x = torch.randn(SHAPE)
    plain, other = (make_layer(body("slope_filler { value: 2 }"), SHAPE) for _ in range(2))
    torch.testing.assert_close(other(x.contiguous(memory_format=torch.channels_last)), plain(x))


def test_onnx_equals_forward_and_a_batchs_statistics_are_refused():
    check_onnx(layer_net(body(FILLERS + " frozen: true"), SHAPE, phase=pb.TEST))
    check_onnx(layer_net(body(SEGNET + " bn_mode: INFERENCE"), SHAPE, phase=pb.TEST))
    with pytest.raises(ExportError, match="bn_mode: LEARN takes the statistics of the batch"):
        check_onnx(layer_net(body(SEGNET), SHAPE, phase=pb.TEST))


@pytest.mark.parametrize(
    ("param", "shape", "tops", "words"),
    [
        ("eps: 0", SHAPE, 1, "eps must be above 0"),
        ("momentum: 1.5", SHAPE, 1, "momentum must be in 0..1"),
        ("", (4,), 1, "at least 2 axes"),
        ("", SHAPE, 2, "only SegNet's LEARN has more"),
        ("bn_mode: INFERENCE", SHAPE, 3, "only SegNet's LEARN has more"),
        ("bn_mode: LEARN frozen: true", SHAPE, 1, "bn_mode are SegNet's and frozen another fork's"),
    ],
)
def test_mistake_is_reported(param, shape, tops, words):
    with pytest.raises(NetError, match=words):
        make_layer(body(param), shape, tops=tops)
