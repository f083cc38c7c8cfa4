from __future__ import annotations

import pytest

from caffe_kd.core.errors import NetError
from tests.helpers import make_layer
from tests.layers.pair_losses import check_pair_loss, loss_of
from tests.losses.reference_values import REFERENCE, reference_tensors

BODY = 'type: "NSTLoss"'


def test_nst_loss_has_the_reference_value():
    values = reference_tensors()
    assert float(loss_of(BODY, values.fs, values.ft)) == pytest.approx(0.349254, rel=REFERENCE)


@pytest.mark.parametrize("teacher", [(3, 4, 2, 3), (3, 2, 4, 6)])
def test_nst_loss_holds_what_all_do(teacher):
    check_pair_loss(BODY, (3, 2, 2, 3), teacher)


def test_nst_loss_of_what_is_no_map_is_reported():
    with pytest.raises(NetError, match="needs maps of 4 axes"):
        make_layer(BODY, (3, 4), (3, 4))
