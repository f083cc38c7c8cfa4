from __future__ import annotations

import pytest

from caffe_kd.core.errors import NetError
from tests.helpers import make_layer
from tests.layers.pair_losses import check_pair_loss, loss_of
from tests.losses.reference_values import reference_tensors

BODY = 'type: "RelationalDistanceLoss"'


@pytest.mark.parametrize(("student", "teacher"), [((5, 3), (5, 4)), ((4, 2, 2, 2), (4, 3, 1, 1))])
def test_relational_distance_loss_holds_what_all_do(student, teacher):
    check_pair_loss(BODY, student, teacher)


def test_relational_distance_loss_of_one_record_is_zero():
    values = reference_tensors()
    assert float(loss_of(BODY, values.es[:1], values.et[:1])) == 0


def test_relational_distance_loss_of_other_records_is_reported():
    with pytest.raises(NetError, match=r"same number of samples. Received: student=\(5, 3\)"):
        make_layer(BODY, (5, 3), (4, 3))
