from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.export.onnx import to_onnx
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, layer_net, make_layer, make_net, run

BODY = 'type: "Filter"'
SHAPES = (5, 3, 2), (5,), (5, 1, 1)


def test_all_records_are_there_before_the_first_pass():
    net = layer_net(BODY, *SHAPES, tops=2)
    assert net.shapes["y0"] == (5, 3, 2)
    assert net.shapes["y1"] == (5,)


@pytest.mark.parametrize("selector", [[0, 1, 0, -2, 0.5], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
def test_records_with_a_selector_other_than_zero_are_passed_on(selector):
    layer = make_layer(BODY, *SHAPES, tops=2)
    x, label = torch.randn(5, 3, 2), torch.arange(5.0)
    chosen = [i for i, value in enumerate(selector) if value]
    a, b = layer(x, label, torch.tensor(selector).float().reshape(5, 1, 1))
    assert torch.equal(a, x[chosen])
    assert b.tolist() == chosen


def test_rule_of_shapes_is_that_of_all_records():
    layer = make_layer(BODY, *SHAPES, tops=2)
    run(layer, torch.randn(5, 3, 2), torch.arange(5.0), torch.ones(5, 1, 1))


def test_gradient_reaches_the_records_chosen_alone():
    layer = make_layer(BODY, (4, 2), (4,))
    selector = torch.tensor([0.0, 1, 0, 1])
    x = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(layer(x, selector)[0].sum(), x)
    assert grad.tolist() == [[0, 0], [1, 1], [0, 0], [1, 1]]
    assert torch.autograd.gradcheck(lambda x: layer(x, selector), x)


def test_selector_gets_no_gradient():
    layer = make_layer(BODY, (2, 2), (2,))
    selector = torch.ones(2, requires_grad=True)
    (y,) = layer(torch.randn(2, 2), selector)
    assert not y.requires_grad


def test_layers_behind_take_what_is_left():
    net = make_net(
        """
        layer { name: "in" type: "Input" top: "x" top: "s"
                input_param { shape { dim: 4 dim: 3 } shape { dim: 4 } } }
        layer { name: "f" type: "Filter" bottom: "x" bottom: "s" top: "kept" }
        layer { name: "ip" type: "InnerProduct" bottom: "kept" top: "ip"
                inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
        """
    )
    x = torch.randn(4, 3)
    for selector, left in (([1, 0, 0, 1], 2), ([0, 0, 0, 0], 0), ([1, 1, 1, 1], 4)):
        net({"x": x, "s": torch.tensor(selector).float()})
        assert tuple(net.blobs["ip"].shape) == (left, 2)


@pytest.mark.parametrize(
    ("shapes", "tops", "words"),
    [
        (((4, 2), (4, 2)), 1, "dimensions must be singletons"),
        (((4, 2), (3,)), 1, "Each bottom should have the same 0th dimension as the selector"),
        (((4, 2), (5, 2), (4,)), 2, "Each bottom should have the same 0th dimension"),
        (((4, 2), ()), 1, "Each bottom should have the same 0th dimension"),
        (((), ()), 1, "Each bottom should have the same 0th dimension"),
        (((4, 2), (4,)), 2, "one top for each bottom but the last.*bottoms=2, tops=2"),
        (((4, 2), (4, 2), (4,)), 1, "one top for each bottom but the last"),
        (((4, 2),), 1, r"takes at least 2 bottom blob\(s\)"),
    ],
)
def test_mistake_is_reported(shapes, tops, words):
    with pytest.raises(NetError, match=words):
        make_layer(BODY, *shapes, tops=tops)


def test_onnx_equals_forward(tmp_path):
    net = layer_net(BODY, *SHAPES, tops=2, phase=pb.TEST)
    check_onnx(net)
    model = to_onnx(net, tmp_path / "m.onnx").SerializeToString()
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    values = np.random.default_rng(0).normal(size=(5, 3, 2))
    for selector in ([0, 1, 0, 0.25, -1], [0, 0, 0, 0, 0]):
        inputs = {"x0": values, "x1": np.arange(5), "x2": np.reshape(selector, (5, 1, 1))}
        inputs = {name: value.astype(np.float32) for name, value in inputs.items()}
        net({name: torch.from_numpy(value) for name, value in inputs.items()})
        for top, answer in zip(("y0", "y1"), session.run(None, inputs), strict=True):
            np.testing.assert_array_equal(answer, net.blobs[top])


def test_loss_of_no_record_is_zero():
    net = make_net(
        'layer { name: "in" type: "Input" top: "x" top: "label" top: "kept" '
        "input_param { shape { dim: 4 dim: 3 } shape { dim: 4 } shape { dim: 4 } } }"
        'layer { name: "filter" type: "Filter" bottom: "x" bottom: "label" bottom: "kept" '
        'top: "y" top: "y_label" }'
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "y" bottom: "y_label" top: "loss" }'
    )
    assert net.forward().item() == 0.0
