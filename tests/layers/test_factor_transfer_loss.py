from __future__ import annotations

import pytest

from caffe_kd.errors import NetError
from caffe_kd.losses.features import factor_transfer
from tests.helpers import make_layer
from tests.layers.pair_losses import hold_pair_loss, loss_of
from tests.losses.reference_values import REFERENCE, reference_tensors

BODY = 'type: "FactorTransferLoss"'


def test_factor_transfer_loss_has_the_reference_value():
    values = reference_tensors()
    assert float(loss_of(BODY, values.fs, values.ft)) == pytest.approx(0.1005125, rel=REFERENCE)


@pytest.mark.parametrize("powers", ["", "p1: 3 p2: 2"])
def test_factor_transfer_loss_holds_what_all_do(powers):
    body = f"{BODY} factor_transfer_loss_param {{ {powers} }}"
    hold_pair_loss(body, (3, 2, 2, 3), (3, 4, 4, 6))


def test_factor_transfer_loss_takes_its_powers_from_the_parameters():
    values = reference_tensors()
    loss = loss_of(f"{BODY} factor_transfer_loss_param {{ p1: 1 p2: 3 }}", values.fs, values.ft)
    assert float(loss) == float(factor_transfer(values.fs, values.ft, 1, 3))


@pytest.mark.parametrize("powers", ["p1: 0", "p2: 0"])
def test_factor_transfer_loss_of_power_0_is_told(powers):
    with pytest.raises(NetError, match="p1 and p2 must be at least 1"):
        make_layer(f"{BODY} factor_transfer_loss_param {{ {powers} }}", (3, 2, 2, 2), (3, 2, 2, 2))


def test_factor_transfer_loss_of_what_is_no_map_is_told():
    with pytest.raises(NetError, match="needs maps of 4 axes"):
        make_layer(BODY, (3, 4), (3, 4))
