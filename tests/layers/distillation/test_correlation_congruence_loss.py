from __future__ import annotations

import pytest

from caffe_kd.core.errors import NetError
from tests.helpers import make_layer
from tests.layers.pair_losses import check_pair_loss, loss_of
from tests.losses.reference_values import REFERENCE, reference_tensors

BODY = 'type: "CorrelationCongruenceLoss"'


def test_correlation_congruence_loss_has_the_reference_value():
    values = reference_tensors()
    assert float(loss_of(BODY, values.es, values.et)) == pytest.approx(20.508078, rel=REFERENCE)


def test_correlation_congruence_loss_holds_what_all_do():
    check_pair_loss(BODY, (5, 3), (5, 3))


def test_correlation_congruence_loss_of_one_record_is_zero():
    values = reference_tensors()
    assert float(loss_of(BODY, values.es[:1], values.et[:1])) == 0


def test_correlation_congruence_loss_of_other_sizes_is_reported():
    with pytest.raises(NetError, match="same number of values per sample.*InnerProduct"):
        make_layer(BODY, (5, 3), (5, 4))
