from __future__ import annotations

import torch

from tests.helpers import golden_case
from tests.layers.recurrent_nets import INPUTS, OUTPUTS, STATIC, random_bottoms, recurrent_net


def test_rnn_equals_the_original():
    golden_case("rnn")


def test_blobs_are_in_the_originals_order():
    layer = recurrent_net("RNN", static=True).nodes[-1].layer
    d = OUTPUTS
    assert layer.blob_shapes == [(d, INPUTS), (d,), (d, STATIC), (d, d), (d, d), (d,)]


def test_hidden_state_of_torchs_rnn_is_the_same():
    layer = recurrent_net("RNN", expose=True).nodes[-1].layer
    other = torch.nn.RNN(INPUTS, OUTPUTS)
    with torch.no_grad():
        other.weight_ih_l0.copy_(layer.blobs[0])
        other.bias_ih_l0.copy_(layer.blobs[1])
        other.weight_hh_l0.copy_(layer.blobs[2])
        other.bias_hh_l0.zero_()
        x, cont, h = random_bottoms("RNN", expose=True)
        output, last = layer(x, torch.ones_like(cont), h)
        steps, theirs = other(x, h)
        torch.testing.assert_close(last, theirs)
        torch.testing.assert_close(output, torch.tanh(steps @ layer.blobs[3].t() + layer.blobs[4]))
