from __future__ import annotations

import pytest

from caffe_kd.core.errors import NetError
from tests.helpers import make_layer
from tests.layers.pair_losses import check_pair_loss, loss_of
from tests.losses.reference_values import REFERENCE, reference_tensors

BODY = 'type: "FSPLoss"'


def test_fsp_loss_has_the_reference_value():
    values = reference_tensors()
    fs, ft = values.fs, values.ft[:, :4]
    assert float(loss_of(BODY, fs, 2 * fs, ft, ft)) == pytest.approx(0.206289, rel=REFERENCE)


def test_fsp_loss_holds_what_all_do():
    check_pair_loss(BODY, (3, 2, 4, 4), (3, 3, 2, 2), (3, 2, 3, 3), (3, 3, 3, 3))


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ([(3, 2, 4, 4), (3, 3, 2, 2), (3, 4, 4, 4), (3, 3, 2, 2)], "num_output 4 on the student"),
        ([(3, 2, 4, 4), (3, 3, 2, 2), (3, 2, 4, 4), (3, 5, 2, 2)], "num_output 5 on the student"),
        ([(3, 2, 4, 4), (2, 3, 2, 2), (3, 2, 4, 4), (3, 3, 2, 2)], "same number of samples"),
        ([(3, 2, 4, 4), (3, 3), (3, 2, 4, 4), (3, 3)], "needs maps of 4 axes"),
        ([(3, 2, 4, 4), (3, 3, 2, 2)], r"takes 4 bottom blob\(s\)"),
    ],
)
def test_fsp_loss_of_maps_that_do_not_fit_is_reported(shapes, words):
    with pytest.raises(NetError, match=words):
        make_layer(BODY, *shapes)
