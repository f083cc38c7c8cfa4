from __future__ import annotations

import pytest
import torch

from caffe_kd.core.errors import NetError
from tests.helpers import layer_net, make_net


def test_silence_takes_blobs_from_the_outputs():
    net = layer_net('type: "Silence"', (2, 3), (4,), tops=0)
    net.forward({"x0": torch.randn(5, 3)})
    assert net.outputs == []


def test_silence_leaves_other_gradients_alone():
    net = make_net(
        """
        layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 3 } } }
        layer { name: "p" type: "Power" bottom: "x" top: "y" loss_weight: 2 }
        layer { name: "s" type: "Silence" bottom: "y" }
        """
    )
    x = torch.randn(3, requires_grad=True)
    (grad,) = torch.autograd.grad(net.forward({"x": x}), x)
    assert grad.tolist() == [2.0, 2.0, 2.0]


def test_top_is_refused():
    with pytest.raises(NetError, match=r"takes 0 top blob\(s\). Received: tops=1"):
        layer_net('type: "Silence"', (2,), tops=1)
