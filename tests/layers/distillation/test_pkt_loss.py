from __future__ import annotations

import pytest

from caffe_kd.core.errors import NetError
from tests.helpers import make_layer
from tests.layers.pair_losses import check_pair_loss, loss_of
from tests.losses.reference_values import REFERENCE, reference_tensors

BODY = 'type: "PKTLoss"'


def test_pkt_loss_has_the_reference_value():
    values = reference_tensors()
    assert float(loss_of(BODY, values.es, values.et)) == pytest.approx(0.00543279, rel=REFERENCE)


@pytest.mark.parametrize(("student", "teacher"), [((5, 3), (5, 4)), ((4, 2, 2, 2), (4, 3, 1, 1))])
def test_pkt_loss_holds_what_all_do(student, teacher):
    check_pair_loss(BODY, student, teacher)


def test_pkt_loss_of_other_records_is_reported():
    with pytest.raises(NetError, match=r"same number of samples. Received: student=\(5, 3\)"):
        make_layer(BODY, (5, 3), (4, 3))
