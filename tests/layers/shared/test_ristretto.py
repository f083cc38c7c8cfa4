"""Ristretto's layers: the plain ones with rounded values and weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from caffe_kd.core.errors import NetError
from caffe_kd.layers.shared import ristretto
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import inputs_text, make_layer, make_net
from tests.proto.test_renumber import block, layer, number_field, read

BITS = "bw_layer_in: 8 fl_layer_in: 5 bw_layer_out: 8 fl_layer_out: 3 bw_params: 6 fl_params: 4"
SHAPE = (2, 4, 6, 6)
KINDS = {
    "ConvolutionRistretto": (
        "convolution_param { num_output: 4 kernel_size: 3 group: 2 pad: 1 %s }",
        lambda x, w, b: F.conv2d(x, w, b, padding=1, groups=2),
    ),
    "DeconvolutionRistretto": (
        "convolution_param { num_output: 4 kernel_size: 2 stride: 2 %s }",
        lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2),
    ),
    "FcRistretto": (
        "inner_product_param { num_output: 5 %s }",
        lambda x, w, b: F.linear(x.flatten(1), w, b),
    ),
}
FILLERS = 'weight_filler { type: "gaussian" std: 1 } bias_filler { type: "gaussian" std: 1 }'


def made(kind: str, quantization: str, phase: int = pb.TEST, seed: int = 0):
    torch.manual_seed(seed)
    settings, operator = KINDS[kind]
    body = f'type: "{kind}" {settings % FILLERS} quantization_param {{ {quantization} }}'
    return make_layer(body, SHAPE, phase=phase), operator


def out(layer, x: Tensor) -> Tensor:
    tops = layer(x)
    return tops if isinstance(tops, Tensor) else tops[0]


def fixed(x: Tensor, bits: int, fraction: int) -> Tensor:
    """By the definition: whole numbers of bits in two's complement, times 2^-fraction."""
    levels = np.rint(x.detach().double().numpy() * 2.0**fraction)
    levels = np.clip(levels, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return torch.from_numpy(levels * 2.0**-fraction).float()


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_weights_are_rounded_to_fixed_point(kind: str) -> None:
    layer, operator = made(kind, BITS)
    x = torch.randn(SHAPE) * 3  # some beyond 127 / 32
    weight, bias = layer.blobs
    y = operator(fixed(x, 8, 5), fixed(weight, 6, 4), fixed(bias, 6, 4))
    assert torch.equal(out(layer, x), fixed(y, 8, 3))


def test_widths_that_are_not_given_are_ristrettos() -> None:
    layer, operator = made("FcRistretto", "bw_params: 4 fl_params: 2")
    x = torch.randn(SHAPE)
    y = operator(fixed(x, 32, 16), *(fixed(blob, 4, 2) for blob in layer.blobs))
    torch.testing.assert_close(out(layer, x), y, atol=2**-16, rtol=0)


def test_training_rounds_weights_alone_and_at_random() -> None:
    layer, operator = made("FcRistretto", BITS, pb.TRAIN)
    weight, bias = layer.blobs
    scaled = weight.detach() * 2**4
    x = torch.eye(144).view(144, *SHAPE[1:])
    found = [(out(layer, x) - out(layer, torch.zeros_like(x))).T * 2**4 for _ in range(40)]
    low, high = scaled.floor().clamp(-32, 31), scaled.ceil().clamp(-32, 31)
    zero = [out(layer, torch.zeros(1, *SHAPE[1:])) * 2**4 for _ in range(8)]
    assert len({tuple(z.flatten().tolist()) for z in zero}) > 1
    for z in zero:  # the bias alone
        assert bool(((z == z.floor()) & ((z - bias * 2**4).abs() < 1)).all())
    assert not torch.equal(found[0], found[1])
    bias_spread = 1  # of two roundings of the bias
    for f in found:
        assert bool((f >= low - bias_spread).all() and (f <= high + bias_spread).all())


def test_gradients_pass_the_rounding_and_go_by_rounded_weights() -> None:
    layer, operator = made("FcRistretto", BITS)
    x = torch.randn(SHAPE, requires_grad=True)
    out(layer, x).sum().backward()
    weight, bias = layer.blobs
    rounded = [fixed(b, 6, 4).requires_grad_() for b in (weight, bias)]
    plain = fixed(x, 8, 5).requires_grad_()
    operator(plain, *rounded).sum().backward()
    for mine, theirs in ((x, plain), (weight, rounded[0]), (bias, rounded[1])):
        assert torch.equal(mine.grad, theirs.grad)


def test_minifloat_of_10_and_5_bits_is_float16() -> None:
    x = torch.randn(1000) * 10.0 ** torch.arange(-3, 4).repeat(143)[:1000]
    x = x[x.abs() > 2.0**-14]  # float16 has denormal numbers below
    x = torch.cat([x, torch.tensor([0.0, -0.0, 1.0, -2.0, 65504.0])])
    expected = x.half().float()
    assert torch.equal(ristretto.minifloat(x, torch.round, 10, 5), expected)
    tiny, huge = torch.tensor([1e-30, -1e-6]), torch.tensor([1e30, -1e9])
    assert not ristretto.minifloat(tiny, torch.round, 10, 5).any()  # no denormal numbers
    most = (2 - 2.0**-10) * 2.0**16
    assert ristretto.minifloat(huge, torch.round, 10, 5).tolist() == [most, -most]


def test_powers_of_two() -> None:
    x = torch.tensor([0.0, 0.3, -0.3, 0.2, -7.0, 1e-9])
    found = ristretto.power_of_two(x, torch.round, -8, -1)
    assert found.tolist() == [2.0**-8, 0.25, -0.25, 0.25, -0.5, 2.0**-8]


def test_weights_may_be_powers_of_two_with_a_bias_of_float32() -> None:
    quantization = BITS + " precision: INTEGER_POWER_OF_2_WEIGHTS exp_min: -6 exp_max: 0"
    layer, operator = made("ConvolutionRistretto", quantization)
    x = torch.randn(SHAPE)
    weight = ristretto.power_of_two(layer.blobs[0], torch.round, -6, 0)
    y = operator(fixed(x, 8, 5), weight, layer.blobs[1])
    torch.testing.assert_close(out(layer, x), fixed(y, 8, 3), atol=2**-3, rtol=0)


def test_layer_of_minifloats_rounds_all() -> None:
    layer, operator = made("ConvolutionRistretto", "precision: MINIFLOAT mant_bits: 3 exp_bits: 4")
    x = torch.randn(SHAPE)
    small = [ristretto.minifloat(v, torch.round, 3, 4) for v in (x, *layer.blobs)]
    expected = ristretto.minifloat(operator(*small), torch.round, 3, 4)
    assert torch.equal(out(layer, x), expected)


def test_stochastic_rounding_in_tests_is_random_and_right_in_the_mean() -> None:
    layer, _ = made("FcRistretto", "rounding_scheme: STOCHASTIC " + BITS)
    x = torch.randn(SHAPE)
    assert not torch.equal(out(layer, x), out(layer, x))
    assert not layer.per_sample
    x = torch.full((200_000,), 0.3)
    rounded = ristretto.fixed_point(x, ristretto._stochastic, 8, 2)
    assert set(rounded.unique().tolist()) == {0.25, 0.5}
    assert float(rounded.mean()) == pytest.approx(0.3, abs=0.005)  # 20 deviations


@pytest.mark.parametrize(
    ("quantization", "words"),
    [
        ("bw_params: 0", "bw_params must be 1 to 32. Received: bw_params=0"),
        ("bw_layer_in: 33", "bw_layer_in must be 1 to 32"),
        ("fl_params: 4 fl_params: 5", "fl_params is one number"),
        ("fl_layer_in: 200", "fl_layer_in is one number from -64 to 64"),
        ("precision: MINIFLOAT mant_bits: 0", "mant_bits must be 1 to 23"),
        ("exp_min: 3 exp_max: 1", "not above exp_max"),
        ("scale_in: 3", "scale_in is not Ristretto's"),
        ("step_in: 3", "step_in is not Ristretto's"),
    ],
)
def test_width_that_cannot_be_meant_is_refused(quantization: str, words: str) -> None:
    with pytest.raises(NetError, match=rf"layer 'L' \(FcRistretto\): .*{words}"):
        made("FcRistretto", quantization)


@pytest.mark.parametrize("number", [145, 149, 158])
def test_binary_nets_of_ristretto_are_read(tmp_path, number: int) -> None:
    content = number_field(3, 8) + number_field(6, 5)
    net = read(tmp_path, layer("ConvolutionRistretto", block(number, content)))
    found = net.layer[0].quantization_param
    assert (found.bw_layer_in, list(found.fl_layer_in)) == (8, [5])


def test_lrn_of_ristretto_is_refused_with_what_to_write() -> None:
    body = 'layer { name: "n" type: "LRNRistretto" bottom: "x0" top: "y" %s }'
    with pytest.raises(NetError, match="'LRNRistretto'.* belongs to Ristretto .* Write LRN"):
        make_net(inputs_text(SHAPE) + body % "quantization_param { precision: MINIFLOAT }")
