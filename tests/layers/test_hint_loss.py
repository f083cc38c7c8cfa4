from __future__ import annotations

import pytest
import torch

from caffe_kd.errors import NetError
from tests.helpers import make_layer
from tests.layers.pair_losses import hold_pair_loss, loss_of
from tests.losses.reference_values import REFERENCE, reference_tensors

BODY = 'type: "HintLoss"'


def test_hint_loss_has_the_reference_value():
    values = reference_tensors()
    assert float(loss_of(BODY, values.es, values.et)) == pytest.approx(2.148990, rel=REFERENCE)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 2)])
def test_hint_loss_holds_what_all_do(shape):
    hold_pair_loss(BODY, shape, shape)


def test_hint_loss_takes_vectors_of_either_form():
    s, t = torch.randn(4, 6), torch.randn(4, 6, 1, 1)
    torch.testing.assert_close(loss_of(BODY, s, t), loss_of(BODY, s, t.flatten(1)))


@pytest.mark.parametrize(
    ("student", "teacher", "words"),
    [
        ((4, 3, 2, 2), (4, 5, 2, 2), "same number of values per record. Put a regressor"),
        ((4, 8, 2, 2), (4, 2, 4, 4), r"maps .* same shape.*student=\(4, 8, 2, 2\)"),
        ((4, 3), (5, 3), r"same number of records. Received: student=\(4, 3\), teacher=\(5, 3\)"),
        ((4,), (4,), "at least 2 axes"),
    ],
)
def test_hint_loss_of_features_that_do_not_fit_is_told(student, teacher, words):
    with pytest.raises(NetError, match=rf"layer 'L' \(HintLoss\): .*{words}"):
        make_layer(BODY, student, teacher)
