from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.export.onnx import to_onnx
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import golden_case, layer_net, make_layer, run

BODY = 'type: "BatchReindex"'


def test_batch_reindex_equals_the_original():
    golden_case("batch_reindex")


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 3, 2, 2)])
def test_records_are_picked_by_number(shape):
    layer = make_layer(BODY, shape, (6,))
    x, index = torch.randn(shape), torch.tensor([3.0, 0, 0, 2, 3, 1])
    (y,) = run(layer, x, index)
    assert torch.equal(y, torch.stack([x[int(i)] for i in index]))
    assert torch.autograd.gradcheck(lambda x: layer(x, index), x.double().requires_grad_())


def test_gradient_adds_up_over_the_picks():
    layer = make_layer(BODY, (3, 1), (4,))
    x = torch.zeros(3, 1, requires_grad=True)
    y = layer(x, torch.tensor([2.0, 0, 2, 2]))
    (grad,) = torch.autograd.grad(y, x, torch.tensor([[1.0], [20], [300], [4000]]))
    assert grad.flatten().tolist() == [20, 0, 4301]


def test_index_gets_no_gradient():
    net = layer_net(BODY, (3, 2), (2,))
    x, index = torch.randn(3, 2, requires_grad=True), torch.tensor([2.0, 1], requires_grad=True)
    net({"x0": x, "x1": index})
    net.blobs["y0"].sum().backward()
    assert x.grad is not None
    assert index.grad is None


def test_broken_index_is_cut():
    layer = make_layer(BODY, (3,), (2,))
    assert run(layer, torch.tensor([5.0, 6, 7]), torch.tensor([1.9, 2.5]))[0].tolist() == [6, 7]


def test_no_index_picks_nothing():
    layer = make_layer(BODY, (3, 2), (2,))
    assert tuple(layer(torch.randn(3, 2), torch.empty(0)).shape) == (0, 2)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ([0.0, -1], "Index specified for reindex layer was negative. Received: index=-1, batch=3"),
        ([0.0, 3], "was greater than batch size. Received: index=3, batch=3"),
        ([0.0, float("nan")], "was negative"),
    ],
)
def test_number_of_no_record_is_reported(index, words):
    layer = make_layer(BODY, (3, 2), (2,))
    with pytest.raises(NetError, match=words):
        layer(torch.randn(3, 2), torch.tensor(index))


def test_index_of_two_axes_is_refused():
    with pytest.raises(NetError, match="the index, must have 1 axis"):
        make_layer(BODY, (3, 2), (2, 1))


def test_onnx_equals_forward(tmp_path):
    net = layer_net(BODY, (4, 3, 2), (4,), phase=pb.TEST)
    model = to_onnx(net, tmp_path / "m.onnx").SerializeToString()
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    for index in ([1, 0], [3, 3, 0, 1.5, 2], [0]):
        inputs = {"x0": np.random.default_rng(0).normal(size=(4, 3, 2)), "x1": np.array(index)}
        inputs = {name: value.astype(np.float32) for name, value in inputs.items()}
        net({name: torch.from_numpy(value) for name, value in inputs.items()})
        np.testing.assert_array_equal(session.run(None, inputs)[0], net.blobs["y0"])
