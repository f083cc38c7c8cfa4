from __future__ import annotations

import math

import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.layers.fillers import fill
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from tests.helpers import make_layer

# 4 standard errors: with a fixed seed the tests are steady, and a wrong spread is off by more.
ERRORS = 4


def filled(shape, filler: str) -> torch.Tensor:
    torch.manual_seed(1)
    blob = torch.full(shape, math.nan)
    fill(blob, text.parse(filler, pb.FillerParameter()))
    return blob


def assert_moments(blob, mean, std, excess=0.0):
    """Hold mean and variance against a distribution's; ``excess`` is its excess kurtosis."""
    n = blob.numel()
    blob = blob.double()
    assert abs(blob.mean().item() - mean) < ERRORS * std / n**0.5
    assert abs(blob.var().item() / std**2 - 1) < ERRORS * ((2 + excess) / n) ** 0.5


UNIFORM_EXCESS = -1.2


def test_default_is_zeros():
    assert (filled((2, 3), "") == 0).all()


def test_constant():
    assert (filled((2, 3), "value: 1.5") == 1.5).all()


def test_uniform():
    blob = filled((100, 100), 'type: "uniform" min: -1 max: 3')
    assert blob.min() >= -1
    assert blob.max() <= 3
    assert_moments(blob, 1, 4 / 12**0.5, UNIFORM_EXCESS)


def test_gaussian():
    assert_moments(filled((100, 100), 'type: "gaussian" mean: 2 std: 0.1'), 2, 0.1)


def test_gaussian_sparse_keeps_about_that_many_of_each_column():
    blob = filled((50, 400), 'type: "gaussian" sparse: 5')
    kept = (blob != 0).double()
    share = 5 / 50
    assert abs(kept.mean().item() - share) < ERRORS * (share * (1 - share) / 20000) ** 0.5
    assert_moments(blob[blob != 0], 0, 1)
    assert (filled((5, 40), 'type: "gaussian" sparse: 0') == 0).all()
    assert (filled((5, 40), 'type: "gaussian" sparse: 9') != 0).all()


def test_positive_unitball_sums_to_one_over_each_item():
    blob = filled((5, 3, 2), 'type: "positive_unitball"')
    assert (blob >= 0).all()
    torch.testing.assert_close(blob.sum((1, 2)), torch.ones(5))


# (outputs, inputs, kernel): fan in 20 x 9, fan out 60 x 9.
SHAPE = (60, 20, 3, 3)


@pytest.mark.parametrize(
    ("norm", "fan"),
    [
        ("", 20 * 9),
        ("variance_norm: FAN_IN", 20 * 9),
        ("variance_norm: FAN_OUT", 60 * 9),
        ("variance_norm: AVERAGE", 40 * 9),
    ],
)
def test_xavier_and_msra_spread_by_the_fan(norm, fan):
    xavier = filled(SHAPE, f'type: "xavier" {norm}')
    bound = math.sqrt(3 / fan)
    assert xavier.abs().max() <= bound
    assert_moments(xavier, 0, bound / 3**0.5, UNIFORM_EXCESS)
    assert_moments(filled(SHAPE, f'type: "msra" {norm}'), 0, math.sqrt(2 / fan))


@pytest.mark.parametrize(
    ("shape", "fan_in", "fan_out"),
    [((60, 200), 200, 60), ((60, 20, 3, 2, 3), 20 * 18, 60 * 18), ((3, 4000), 4000, 3)],
)
def test_fan_of_any_number_of_axes(shape, fan_in, fan_out):
    """Of an InnerProduct, a convolution in 3-D, and a transposed InnerProduct."""
    for norm, fan in (
        ("FAN_IN", fan_in),
        ("FAN_OUT", fan_out),
        ("AVERAGE", (fan_in + fan_out) / 2),
    ):
        assert_moments(filled(shape, f'type: "msra" variance_norm: {norm}'), 0, math.sqrt(2 / fan))


def test_layer_fills_its_blob_by_the_variance_norm_of_its_prototxt():
    layer = make_layer(
        'type: "InnerProduct" inner_product_param { num_output: 50 weight_filler { '
        'type: "xavier" variance_norm: FAN_OUT } bias_filler { type: "gaussian" sparse: 0 } }',
        (1, 400),
    )
    weight, bias = (blob.detach() for blob in layer.blobs)
    bound = math.sqrt(3 / 50)
    assert bound * 0.99 < weight.abs().max() <= bound
    assert (bias == 0).all()


def test_fan_out_of_one_axis_is_its_count():
    assert_moments(filled((20000,), 'type: "msra" variance_norm: FAN_OUT'), 0, (2 / 20000) ** 0.5)
    assert_moments(filled((20000,), 'type: "msra"'), 0, 2**0.5)


@pytest.mark.parametrize(
    ("size", "line"), [(4, [0.25, 0.75, 0.75, 0.25]), (3, [0.5, 1, 0.5]), (1, [1.0])]
)
def test_bilinear_is_the_interpolation_kernel_in_every_plane(size, line):
    blob = filled((2, 3, size, size), 'type: "bilinear"')
    want = torch.tensor(line)[:, None] * torch.tensor(line)
    torch.testing.assert_close(blob, want.expand(2, 3, size, size))


def test_seed_repeats_the_numbers():
    assert torch.equal(filled((3, 4), 'type: "xavier"'), filled((3, 4), 'type: "xavier"'))


@pytest.mark.parametrize(
    ("shape", "filler", "words"),
    [
        ((2, 3), 'type: "xaviar"', "Unknown filler name: 'xaviar'.*Did you mean 'xavier'"),
        ((2, 3), 'type: "xavier" sparse: 3', "Sparsity not supported by this Filler: 'xavier'"),
        ((2, 3), 'type: "gaussian" sparse: -2', "sparse must be at least 0, or -1 for none"),
        ((2, 3), 'type: "gaussian" std: 0', "std must be above 0. Received: std=0"),
        ((2, 3), 'type: "gaussian" std: -1', "std must be above 0"),
        ((2, 3), 'type: "uniform" min: 2 max: 1', "min must not exceed max"),
        ((2, 3), 'type: "uniform" max: inf', "both must be finite"),
        ((2, 3, 3), 'type: "bilinear"', "Blob must be 4 dim. and Filter must be square"),
        ((2, 3, 3, 4), 'type: "bilinear"', r"Received: shape=\(2, 3, 3, 4\)"),
        ((), 'type: "xavier"', "needs a blob of at least 1 axis"),
        ((), 'type: "positive_unitball"', "needs a blob of at least 1 axis"),
        ((), 'type: "gaussian" sparse: 1', "needs a blob of at least 1 axis"),
    ],
)
def test_mistake_is_reported(shape, filler, words):
    with pytest.raises(NetError, match=words):
        filled(shape, filler)
