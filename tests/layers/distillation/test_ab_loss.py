from __future__ import annotations

import pytest

from caffe_kd.core.errors import NetError
from tests.helpers import layer_net, make_layer
from tests.layers.pair_losses import check_pair_loss, loss_of
from tests.losses.reference_values import REFERENCE, reference_tensors

BODY = 'type: "ABLoss"'


def test_ab_loss_of_the_usual_weight_has_the_reference_value():
    values = reference_tensors()
    fs, ft = values.fs, values.ft[:, :4]
    objective = layer_net(f"{BODY} loss_weight: 0.003", fs.shape, ft.shape)({"x0": fs, "x1": ft})
    assert float(objective) == pytest.approx(0.902061, rel=REFERENCE)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 2)])
def test_ab_loss_holds_what_all_do(shape):
    check_pair_loss(BODY, shape, shape, of_teacher=False)


def test_ab_loss_minds_only_the_sign_of_the_teacher():
    values = reference_tensors()
    s, t = values.es, values.et
    assert loss_of(BODY, s, t) == loss_of(BODY, s, t.relu()) == loss_of(BODY, s, 9 * t)


def test_ab_loss_takes_its_margin_from_the_parameters():
    values = reference_tensors()
    s, t = values.es, values.et
    doubled = loss_of(f"{BODY} ab_loss_param {{ margin: 2 }}", 2 * s, t)
    assert float(doubled) == pytest.approx(4 * float(loss_of(BODY, s, t)))


@pytest.mark.parametrize(
    ("student", "teacher", "settings", "words"),
    [
        ((4, 3, 2, 2), (4, 6, 2, 2), "", "1x1 Convolution with num_output 6"),
        ((4, 3, 2, 2), (4, 3, 4, 4), "", "same number of values per sample"),
        ((4, 3), (4, 3), "margin: 0", "margin must be above 0. Received: margin=0"),
    ],
)
def test_ab_loss_that_cannot_be_is_reported(student, teacher, settings, words):
    with pytest.raises(NetError, match=words):
        make_layer(f"{BODY} ab_loss_param {{ {settings} }}", student, teacher)
