from __future__ import annotations

import pytest

from caffe_kd.core.errors import NetError
from tests.helpers import inputs_text, make_layer, make_net
from tests.layers.pair_losses import check_pair_loss, loss_of
from tests.losses.reference_values import REFERENCE, reference_tensors

BODY = 'type: "RelationalAngleLoss"'


def test_relational_losses_of_the_usual_weights_have_the_reference_value():
    values = reference_tensors()
    net = make_net(
        inputs_text(values.es.shape, values.et.shape)
        + """
        layer { name: "d" type: "RelationalDistanceLoss" bottom: "x0" bottom: "x1" loss_weight: 25 }
        layer { name: "a" type: "RelationalAngleLoss" bottom: "x0" bottom: "x1" loss_weight: 50 }
        """
    )
    objective = net({"x0": values.es, "x1": values.et})
    assert float(objective) == pytest.approx(3.456091, rel=REFERENCE)


@pytest.mark.parametrize(("student", "teacher"), [((5, 3), (5, 4)), ((4, 2, 2, 2), (4, 3, 1, 1))])
def test_relational_angle_loss_holds_what_all_do(student, teacher):
    check_pair_loss(BODY, student, teacher)


def test_relational_angle_loss_of_one_record_is_zero():
    values = reference_tensors()
    assert float(loss_of(BODY, values.es[:1], values.et[:1])) == 0


def test_relational_angle_loss_of_other_records_is_reported():
    with pytest.raises(NetError, match=r"same number of samples. Received: student=\(5, 3\)"):
        make_layer(BODY, (5, 3), (4, 3))
