from __future__ import annotations

import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, golden_case, gradcheck, make_layer, make_net, run

BODY = 'type: "Dropout" dropout_param { dropout_ratio: 0.3 }'


def test_dropout_in_test_equals_the_original():
    golden_case("dropout_test")


def test_values_are_zeroed_or_divided_by_what_is_kept():
    torch.manual_seed(0)
    x = torch.ones(20000)
    (y,) = run(make_layer(BODY, x.shape), x)
    kept = y != 0
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / 0.7))
    # 4 standard deviations of the share of 20000 draws.
    assert abs(kept.float().mean().item() - 0.7) < 4 * (0.3 * 0.7 / 20000) ** 0.5


def test_ratio_is_a_half_unless_given():
    assert make_layer('type: "Dropout"', (4,)).ratio == 0.5


def test_seed_repeats_the_draws():
    layer, x = make_layer(BODY, (100,)), torch.ones(100)
    torch.manual_seed(3)
    first = layer(x)
    assert not torch.equal(layer(x), first)
    torch.manual_seed(3)
    assert torch.equal(layer(x), first)


def test_phase_of_the_layer_wins_over_the_nets():
    x = torch.ones(100)
    layer = make_layer(f"phase: TEST {BODY}", (100,), phase=pb.TRAIN)
    assert torch.equal(layer(x), x)


def test_gradient_is_zeroed_where_the_value_was():
    gradcheck(make_layer(BODY, (3, 4)), torch.randn(3, 4))


@pytest.mark.parametrize("ratio", ["1", "1.5", "-0.1", "nan"])
def test_ratio_outside_its_range_is_refused(ratio):
    with pytest.raises(NetError, match="dropout_ratio must be at least 0 and below 1"):
        make_layer(f'type: "Dropout" dropout_param {{ dropout_ratio: {ratio} }}', (2,))


@pytest.mark.parametrize("ratio", ["1", "1.5"])
def test_ratio_is_no_matter_in_test(ratio):
    layer = make_layer(
        f'type: "Dropout" dropout_param {{ dropout_ratio: {ratio} }}', (2,), phase=pb.TEST
    )
    assert torch.equal(layer(torch.ones(2)), torch.ones(2))


def test_onnx_leaves_it_out():
    check_onnx(
        make_net(
            """
            layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
            layer { name: "r" type: "ReLU" bottom: "x" top: "y" }
            layer { name: "d" type: "Dropout" bottom: "y" top: "y" }
            layer { name: "s" type: "Sigmoid" bottom: "y" top: "z" }
            """
        )
    )
