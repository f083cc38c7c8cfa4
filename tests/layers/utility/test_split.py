from __future__ import annotations

import torch

from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, golden_case, gradcheck, layer_net, make_layer, run

BODY = 'type: "Split"'


def test_split_equals_the_original():
    golden_case("split")


def test_every_top_is_the_bottom_and_gradients_add_up():
    layer = make_layer(BODY, (2, 3), tops=3)
    x = torch.randn(2, 3, requires_grad=True)
    tops = run(layer, x)
    assert all(torch.equal(t, x) for t in tops)
    (grad,) = torch.autograd.grad([t.sum() * (i + 1) for i, t in enumerate(tops)], x)
    assert torch.equal(grad, torch.full((2, 3), 6.0))
    gradcheck(layer, x)


def test_onnx_equals_forward():
    check_onnx(layer_net(BODY, (2, 3), tops=2, phase=pb.TEST))
