from __future__ import annotations

import pytest

from caffe_kd.core.errors import NetError
from tests.helpers import make_layer
from tests.layers.pair_losses import check_pair_loss, loss_of
from tests.losses.reference_values import REFERENCE, reference_tensors

BODY = 'type: "AttentionTransferLoss"'


def test_attention_transfer_loss_has_the_reference_value():
    values = reference_tensors()
    assert float(loss_of(BODY, values.fs, values.ft)) == pytest.approx(0.0205001, rel=REFERENCE)


@pytest.mark.parametrize("teacher", [(3, 4, 2, 2), (3, 4, 4, 6), (3, 4, 1, 3)])
def test_attention_transfer_loss_holds_what_all_do(teacher):
    check_pair_loss(BODY, (3, 2, 2, 3), teacher)


@pytest.mark.parametrize("teacher", [(3, 4), (3, 4, 2), (3, 4, 2, 2, 2)])
def test_attention_transfer_loss_of_what_is_no_map_is_reported(teacher):
    with pytest.raises(NetError, match=r"needs maps of 4 axes \(N, C, H, W\).*bottom=\(3, 4"):
        make_layer(BODY, (3, 4, 2, 2), teacher)


def test_attention_transfer_loss_of_other_records_is_reported():
    with pytest.raises(NetError, match="same number of samples"):
        make_layer(BODY, (3, 4, 2, 2), (2, 4, 2, 2))
