from __future__ import annotations

import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, golden_case, gradcheck, layer_net, make_layer, run


def body(param: str) -> str:
    return f'type: "Eltwise" eltwise_param {{ {param} }}'


@pytest.mark.parametrize("name", ["eltwise_sum", "eltwise_coeff", "eltwise_prod", "eltwise_max"])
def test_eltwise_equals_the_original(name):
    golden_case(name)


@pytest.mark.parametrize(
    "param", ["", "operation: PROD", "operation: MAX", "coeff: 2 coeff: -1 coeff: 0.5"]
)
def test_shape_gradient_and_onnx(param):
    shapes = [(2, 3, 2)] * 3
    layer = make_layer(body(param), *shapes)
    bottoms = [torch.randn(s) for s in shapes]
    run(layer, *bottoms)
    gradcheck(layer, *bottoms)
    check_onnx(layer_net(body(param), *shapes, phase=pb.TEST))


@pytest.mark.parametrize(
    ("values", "winner"),
    [((1, 1, 0), 1), ((1, 1, 1), 1), ((1, 0, 1), 0), ((0, 1, 1), 1), ((0, 0, 1), 2)],
)
def test_max_gives_the_whole_gradient_of_a_tie_to_one_bottom(values, winner):
    layer = make_layer(body("operation: MAX"), (1,), (1,), (1,))
    bottoms = [torch.tensor([float(v)], requires_grad=True) for v in values]
    grads = torch.autograd.grad(layer(*bottoms), bottoms)
    assert [g.item() for g in grads] == [float(i == winner) for i in range(3)]


def test_gradient_of_a_product_with_a_zero_is_the_product_of_the_others():
    for stable in ("true", "false"):
        layer = make_layer(body(f"operation: PROD stable_prod_grad: {stable}"), (1,), (1,))
        a, b = torch.zeros(1, requires_grad=True), torch.full((1,), 3.0, requires_grad=True)
        grads = torch.autograd.grad(layer(a, b), (a, b))
        assert [g.item() for g in grads] == [3.0, 0.0]


def test_same_blob_twice_adds_up():
    layer = make_layer(body(""), (2,), (2,))
    x = torch.randn(2)
    torch.testing.assert_close(run(layer, x, x)[0], 2 * x)


@pytest.mark.parametrize(
    ("param", "shapes", "words"),
    [
        (
            "operation: PROD coeff: 1 coeff: 1",
            [(2,), (2,)],
            "only takes coefficients for summation",
        ),
        ("coeff: 1", [(2,), (2,)], "takes one coefficient per bottom blob"),
        ("", [(2, 3), (3, 2)], r"bottom\[0\]: \(2, 3\), bottom\[1\]: \(3, 2\)"),
        ("", [(2, 3), (6,)], "all bottoms must have the same shape"),
        ("", [(2, 3)], r"takes at least 2 bottom blob\(s\). Received: bottoms=1"),
    ],
)
def test_mistake_is_reported(param, shapes, words):
    with pytest.raises(NetError, match=words):
        make_layer(body(param), *shapes)
