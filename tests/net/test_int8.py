"""Nets with the scales of Intel's int8 layers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from caffe_kd.core.errors import CaffeKDError, NetError
from caffe_kd.export.onnx import onnx_model
from caffe_kd.net import Net
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import inputs_text, make_net

BITS = "bw_layer_in: 8 bw_layer_out: 8 bw_params: 8"
PARAMS = "scale_params: 60 scale_params: 0 scale_params: 45"
SCALES = f"{BITS} scale_in: 40 scale_out: 20 {PARAMS}"
FILLERS = 'weight_filler { type: "gaussian" std: 1 } bias_filler { type: "gaussian" std: 1 }'
SHAPE = (2, 4, 6, 6)
# Where a value lies between two levels by the last digit of a float32 sum: one level.
LEVEL = 1 / 20


def conv(scales: str, bias: str = "", bottom: str = "x0", name: str = "c") -> str:
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" '
        f"convolution_param {{ num_output: 3 kernel_size: 3 {bias} {FILLERS} }} "
        f"quantization_param {{ {scales} }} }}\n"
    )


RELU = 'layer { name: "r" type: "ReLU" bottom: "c" top: "c" }\n'
NORM = """layer { name: "bn" type: "BatchNorm" bottom: "c" top: "c" }
layer { name: "s" type: "Scale" bottom: "c" top: "c" scale_param { bias_term: true
  filler { type: "uniform" min: 0.5 max: 2 } bias_filler { type: "gaussian" std: 1 } } }
"""


def built(layers: str, phase: int = pb.TEST) -> Net:
    torch.manual_seed(0)
    return make_net(inputs_text(SHAPE) + layers, phase)


def blobs(net: Net, name: str) -> list[Tensor]:
    node = net.node_of(name)
    assert node is not None
    return [blob.detach() for blob in node.layer.blobs]


def level(x: Tensor, scale: float, low: int, high: int) -> Tensor:
    return torch.zeros_like(x) if scale == 0 else (x * scale).round().clamp(low, high) / scale


def by_hand(x: Tensor, weight: Tensor, bias: Tensor, low: int = 0, high: int = 255) -> Tensor:
    """By the formula, channel by channel, without the rounding of the top."""
    tops = []
    x = level(x, 40, low, high)
    for w, b, s in zip(weight, bias, (60, 0, 45), strict=True):
        sums = 40 * s or 1
        tops.append(F.conv2d(x, level(w, s, -128, 127)[None], (b * sums).round()[None] / sums))
    return torch.cat(tops, 1)


def result(net: Net, x: Tensor, name: str = "c") -> Tensor:
    with torch.no_grad():
        net({"x0": x})
    return net.blobs[name]


@pytest.mark.parametrize(
    ("more", "low", "high"), [("", 0, 255), (" is_negative_input: true", -128, 127)]
)
@pytest.mark.parametrize("relu", ["", RELU])
def test_layer_computes_with_its_scales(more: str, low: int, high: int, relu: str) -> None:
    net = built(conv(SCALES + more) + relu)
    x = torch.randn(SHAPE) * 4
    y = by_hand(x, *blobs(net, "c"), low, high)
    expected = level(y.relu(), 20, 0, 255) if relu else level(y, 20, -128, 127)
    torch.testing.assert_close(result(net, x), expected, atol=1.01 * LEVEL, rtol=0)
    assert (result(net, x) == expected).float().mean() > 0.95


def test_top_of_32_bits_is_not_rounded() -> None:
    net = built(conv(SCALES.replace("bw_layer_out: 8", "bw_layer_out: 32")))
    x = torch.randn(SHAPE)
    torch.testing.assert_close(result(net, x), by_hand(x, *blobs(net, "c")))


@pytest.mark.parametrize("bias", ["", "bias_term: false"])
def test_normalisation_behind_the_layer_is_part_of_its_weights(bias: str) -> None:
    net = built(conv(SCALES, bias) + NORM + RELU)
    mean, var, count = blobs(net, "bn")
    mean.copy_(torch.randn(3)), var.copy_(torch.rand(3) + 0.5), count.fill_(2)
    gamma, beta = blobs(net, "s")
    weight, *own = blobs(net, "c")
    factor = gamma / (var / 2 + 1e-5).sqrt()
    offset = (own[0] if own else 0) * factor - mean / 2 * factor + beta
    x = torch.randn(SHAPE)
    y = by_hand(x, weight * factor[:, None, None, None], offset)
    expected = level(y.relu(), 20, 0, 255)
    torch.testing.assert_close(result(net, x), expected, atol=1.01 * LEVEL, rtol=0)
    assert (result(net, x) == expected).float().mean() > 0.95


def test_tops_that_are_summed_stay_float32() -> None:
    one, two = conv(SCALES), conv(SCALES, name="d")
    total = 'layer { name: "sum" type: "Eltwise" bottom: "c" bottom: "d" top: "sum" }'
    net = built(one + two + total)
    x = torch.randn(SHAPE)
    expected = by_hand(x, *blobs(net, "c")) + by_hand(x, *blobs(net, "d"))
    torch.testing.assert_close(result(net, x, "sum"), expected, atol=1e-4, rtol=1e-4)


def test_fractions_in_place_of_scales_are_powers_of_two() -> None:
    fractions = f"{BITS} fl_layer_in: 5 fl_layer_out: 3 fl_params: 6"
    scales = f"{BITS} scale_in: 32 scale_out: 8 scale_params: 64"
    x = torch.randn(SHAPE)
    assert torch.equal(result(built(conv(fractions)), x), result(built(conv(scales)), x))


def test_training_is_that_of_float32() -> None:
    x = torch.randn(SHAPE)
    rounded = built(conv(SCALES) + NORM + RELU, pb.TRAIN)
    plain = built(conv("") + NORM + RELU, pb.TRAIN)
    assert torch.equal(result(rounded, x), result(plain, x))


def test_residual_net_of_the_public_form_runs() -> None:
    body = (
        conv(SCALES)
        + NORM
        + RELU
        + conv(SCALES, "pad: 1", "c", "b1")
        + conv(SCALES.replace("scale_in: 40", "scale_in: 20"), "pad: 1 bias_term: false", "c", "b2")
    )
    body += """layer { name: "sum" type: "Eltwise" bottom: "b1" bottom: "b2" top: "sum" }
layer { name: "relu" type: "ReLU" bottom: "sum" top: "sum" }
layer { name: "ip" type: "InnerProduct" bottom: "sum" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } }
  quantization_param { bw_layer_in: 8 bw_layer_out: 32 bw_params: 8 scale_in: 12 scale_out: 1
    scale_params: 90 } }"""
    net = built(body)
    assert result(net, torch.rand(SHAPE), "ip").isfinite().all()


def test_export_refuses_the_rounding_and_names_quantize() -> None:
    with pytest.raises(CaffeKDError, match="'c'.*Intel's scales. caffe_kd quantize -method GIVEN"):
        onnx_model(built(conv(SCALES)))


@pytest.mark.parametrize(
    ("scales", "words"),
    [
        (f"{BITS} scale_in: 40 scale_out: 20 scale_params: 3 scale_params: 4", "scale_params must"),
        (f"{BITS} scale_in: 40 scale_in: 41 scale_out: 2 {PARAMS}", "scale_in must be one"),
        (f"{BITS} scale_in: -4 scale_out: 2 {PARAMS}", "scale_in must be one, 0 or more"),
        (f"{BITS} scale_out: 2 {PARAMS}", "scale_in must be one"),
        (SCALES.replace("bw_params: 8", "bw_params: 4"), "are for bw_layer_in: 8 and bw_params: 8"),
        (SCALES + " precision: MINIFLOAT", "are Ristretto's"),
        (SCALES + " force_u8_input: true", "force_u8_input does not go with Intel's scales"),
        (SCALES + " step_in: 2", "step_in does not go with Intel's scales"),
    ],
)
def test_scales_that_cannot_be_meant_are_refused(scales: str, words: str) -> None:
    with pytest.raises(NetError, match=rf"layer 'c' \(Convolution\): .*{words}"):
        built(conv(scales))
