from __future__ import annotations

import pytest
import torch

from caffe_kd.core.errors import NetError
from tests.helpers import make_layer
from tests.layers.pair_losses import check_pair_loss, loss_of
from tests.losses.reference_values import REFERENCE, reference_tensors

BODY = 'type: "VIDLoss"'


def test_vid_loss_has_the_reference_value_before_training():
    values = reference_tensors()
    assert loss_of(BODY, values.es, values.et).item() == pytest.approx(1.019618, rel=REFERENCE)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [((3, 2), (3, 2)), ((3, 2, 2, 2), (3, 2, 2, 2)), ((3, 2, 4, 4), (3, 2, 2, 2))],
)
def test_vid_loss_holds_what_all_do(student, teacher):
    check_pair_loss(BODY, student, teacher)


@pytest.mark.parametrize("variance", [5, 1e-3, 60])
def test_vid_loss_begins_with_the_variance_asked_for(variance):
    layer = make_layer(f"{BODY} vid_loss_param {{ initial_variance: {variance} }}", (3, 4), (3, 4))
    (scale,) = layer.blobs
    assert scale.shape == (4,)
    got = torch.nn.functional.softplus(scale) + 1e-5
    torch.testing.assert_close(got, torch.full((4,), float(variance)))


def test_vid_loss_learns_the_variance_of_each_channel():
    torch.manual_seed(0)
    missed = torch.randn(500, 2) * torch.tensor([0.5, 3.0])
    layer = make_layer(BODY, (500, 2), (500, 2))
    optimizer = torch.optim.Adam(layer.blobs, 0.1)
    for _ in range(400):
        optimizer.zero_grad()
        layer(missed, torch.zeros(500, 2)).backward()
        optimizer.step()
    got = torch.nn.functional.softplus(layer.blobs[0].detach()) + 1e-5
    # Adam's last steps are about 1e-3 of the variance.
    torch.testing.assert_close(got, missed.square().mean(0), rtol=1e-2, atol=0)


@pytest.mark.parametrize("variance", [0, 1e-5, -1])
def test_vid_loss_of_a_variance_that_cannot_be_is_reported(variance):
    with pytest.raises(NetError, match="initial_variance must be above 1e-05"):
        make_layer(f"{BODY} vid_loss_param {{ initial_variance: {variance} }}", (3, 4), (3, 4))


def test_vid_loss_of_other_channels_is_reported():
    with pytest.raises(NetError, match="same number of channels. Put a 1x1 .* num_output 6"):
        make_layer(BODY, (3, 4, 2, 2), (3, 6, 2, 2))


def test_vid_loss_of_maps_of_one_place_is_that_of_vectors():
    student, teacher = torch.randn(6, 5), torch.randn(6, 5)
    expected = loss_of(BODY, student, teacher)
    torch.testing.assert_close(loss_of(BODY, student, teacher.reshape(6, 5, 1, 1)), expected)
