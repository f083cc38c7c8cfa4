from __future__ import annotations

import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import (
    check_onnx,
    golden_case,
    inputs_text,
    layer_net,
    make_layer,
    make_net,
    run,
)

FILLERS = 'weight_filler { type: "gaussian" } bias_filler { type: "gaussian" }'
BODY = f'type: "Embed" embed_param {{ num_output: 4 input_dim: 6 {FILLERS} }}'


def test_embed_equals_the_original():
    golden_case("embed")


@pytest.mark.parametrize("shape", [(3,), (3, 5), (2, 3, 2), ()])
def test_each_index_becomes_its_row(shape):
    layer = make_layer(BODY, shape)
    x = torch.randint(0, 6, shape).float()
    (y,) = run(layer, x)
    weight, bias = layer.blobs
    assert [tuple(b.shape) for b in layer.blobs] == [(6, 4), (4,)]
    torch.testing.assert_close(y, weight[x.long()] + bias)


def test_embed_is_an_inner_product_of_one_hot_vectors():
    layer = make_layer(BODY.replace("num_output", "bias_term: false num_output"), (5,))
    x = torch.tensor([0.0, 3, 3, 5, 1])
    (y,) = run(layer, x)
    one_hot = torch.nn.functional.one_hot(x.long(), 6).float().requires_grad_()
    torch.testing.assert_close(y, one_hot @ layer.blobs[0])
    top_diff = torch.randn(5, 4)
    (gradient,) = torch.autograd.grad(y, layer.blobs, top_diff)
    torch.testing.assert_close(gradient, one_hot.detach().t() @ top_diff)


def test_broken_indices_are_cut():
    layer = make_layer(BODY, (2,))
    assert torch.equal(layer(torch.tensor([1.9, 0.2])), layer(torch.tensor([1.0, 0.0])))


def test_indices_get_no_gradient_even_where_it_is_forced():
    net = make_net(
        f'force_backward: true {inputs_text((3,))} layer {{ name: "L" bottom: "x0" top: "y" '
        f"loss_weight: 1 {BODY} }}"
    )
    net({"x0": torch.ones(3)}).backward()
    assert net.blobs["x0"].grad is None
    assert net.params[0].blob.grad.any()


@pytest.mark.parametrize("index", [-1.0, 6.0])
def test_index_out_of_range_is_reported(index):
    layer = make_layer(BODY, (2,))
    with pytest.raises(NetError, match=rf"must be in 0\.\.5.*index={index:.0f}, input_dim=6"):
        layer(torch.tensor([0.0, index]))


@pytest.mark.parametrize(
    ("param", "words"),
    [
        ("input_dim: 6", "EmbedLayer num_output must be positive"),
        ("num_output: 4", "EmbedLayer input_dim must be positive"),
        ("num_output: 2000000000 input_dim: 1", "the top is too large: blob size exceeds INT_MAX"),
    ],
)
def test_mistake_is_reported(param, words):
    with pytest.raises(NetError, match=words):
        make_layer(f'type: "Embed" embed_param {{ {param} }}', (3, 5))


def test_onnx_of_indices_that_come_through_other_layers_equals_forward():
    net = make_net(
        inputs_text((2, 6))
        + 'layer { name: "f" type: "Flatten" bottom: "x0" top: "flat" flatten_param { axis: 0 } }'
        + f'layer {{ name: "L" bottom: "flat" top: "y" {BODY} }}'
    )
    check_onnx(net)


def test_onnx_equals_forward():
    check_onnx(layer_net(BODY, (2, 3), phase=pb.TEST))
