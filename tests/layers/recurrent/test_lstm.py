from __future__ import annotations

import torch

from tests.helpers import golden_case
from tests.layers.recurrent_nets import INPUTS, OUTPUTS, STATIC, random_bottoms, recurrent_net


def test_lstm_equals_the_original():
    golden_case("lstm")


def test_blobs_are_in_the_originals_order():
    layer = recurrent_net("LSTM", static=True).nodes[-1].layer
    width = 4 * OUTPUTS
    assert layer.blob_shapes == [(width, INPUTS), (width,), (width, STATIC), (width, OUTPUTS)]


def test_torchs_lstm_gives_the_same_with_its_gates_in_its_order():
    layer = recurrent_net("LSTM").nodes[-1].layer
    other = torch.nn.LSTM(INPUTS, OUTPUTS)
    i, f, o, g = range(4)
    order = torch.cat([torch.arange(OUTPUTS) + OUTPUTS * gate for gate in (i, f, g, o)])
    with torch.no_grad():
        w_x, bias, w_h = (blob[order] for blob in layer.blobs)
        other.weight_ih_l0.copy_(w_x)
        other.weight_hh_l0.copy_(w_h)
        other.bias_ih_l0.copy_(bias)
        other.bias_hh_l0.zero_()
        x, cont = random_bottoms("LSTM")
        torch.testing.assert_close(layer(x, torch.ones_like(cont)), other(x)[0])


def test_sequence_that_begins_sees_nothing_of_the_one_before():
    layer = recurrent_net("LSTM").nodes[-1].layer
    x, cont = random_bottoms("LSTM")
    cont[:] = 1
    cont[2] = 0
    changed = x.clone()
    changed[:2] += 1
    one = layer(x, cont)
    layer.reset()
    other = layer(changed, cont)
    assert torch.equal(one[2:], other[2:])
    assert not torch.equal(one[:2], other[:2])
