"""The check refuses a model whose outputs differ from the net's."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from caffe_kd.core.errors import ExportError
from caffe_kd.export.check import BATCHES, check
from caffe_kd.export.onnx import to_onnx
from caffe_kd.export.preprocess import Preprocess
from caffe_kd.net import Net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text

NET = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 4 dim: 3 } } }
layer { name: "shape" type: "Reshape" bottom: "x" top: "flat"
  reshape_param { shape { dim: 0 dim: -1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "flat" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
"""


@pytest.fixture
def exported(tmp_path):
    torch.manual_seed(0)
    net = Net(text.parse(NET, pb.NetParameter()), pb.TEST)
    return net, to_onnx(net, tmp_path / "m.onnx")


def initializer(model, name):
    return next(t for t in model.graph.initializer if t.name == name)


def replace(model, name, array):
    tensor = initializer(model, name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))


def test_check_reports_what_it_compared(exported):
    samples = [{"x": np.full((3, 4, 3), 100, np.float32)}, {"x": np.ones((2, 4, 3), np.float32)}]
    report = check(*exported, samples=samples)
    assert report.samples == sum(BATCHES) + 5
    net, _ = exported
    net({"x": torch.full((1, 4, 3), 100.0)})
    assert report.value == pytest.approx(net.blobs["ip"].abs().max().item(), rel=1e-5)
    assert 0 <= report.difference <= 1e-4 * report.value


@pytest.mark.parametrize(("change", "agrees"), [(0.5e-4, True), (2e-4, False)])
def test_check_allows_1e_4_of_the_greatest_value(exported, change, agrees):
    net, model = exported
    net.node_of("ip").layer.blobs[1].data.fill_(50)  # the greatest value becomes about 50
    bias = np.full(5, 50 * (1 + change), np.float32)
    replace(model, "ip.1", bias)
    if agrees:
        assert check(net, model).difference == pytest.approx(50 * change, rel=0.1)
    else:
        with pytest.raises(ExportError, match=r"batch of 1 .* output 'ip' differs .* by 0\.01"):
            check(net, model)


def test_check_small_values_may_differ_by_1e_4(exported):
    net, model = exported
    for blob in net.node_of("ip").layer.blobs:
        blob.data.zero_()
    replace(model, "ip.0", np.zeros((5, 12), np.float32))
    replace(model, "ip.1", np.full(5, 0.9e-4, np.float32))
    check(net, model)
    replace(model, "ip.1", np.full(5, 1.1e-4, np.float32))
    with pytest.raises(ExportError, match="differs"):
        check(net, model)


TIES = """
layer { name: "label" type: "ArgMax" bottom: "ip" top: "label" argmax_param { axis: 1 } }
layer { name: "image" type: "Reshape" bottom: "x" top: "image"
  reshape_param { shape { dim: 0 dim: 1 dim: 4 dim: 3 } } }
layer { name: "conv" type: "Convolution" bottom: "image" top: "conv"
  convolution_param { num_output: 2 kernel_size: 1 } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" top: "mask"
  pooling_param { pool: MAX kernel_size: 2 stride: 1 } }
layer { name: "mask_by_10" type: "Power" bottom: "mask" top: "indices" power_param { scale: 10 } }
"""


@pytest.fixture
def tying(tmp_path):
    """A net whose scores tie but for 1e-6, and its model, in which they tie the other way."""
    torch.manual_seed(0)
    net = Net(text.parse(NET + TIES, pb.NetParameter()), pb.TEST)
    weight, bias = net.node_of("ip").layer.blobs
    weight.data[:] = weight.data[:1]
    bias.data[:] = torch.tensor([1e-6, 0, 0, 0, 0])
    model = to_onnx(net, tmp_path / "m.onnx")
    replace(model, "ip.1", np.array([0, 1e-6, 0, 0, 0], np.float32))
    return net, model


def test_check_near_ties_are_counted_not_refused(tying):
    net, model = tying
    report = check(net, model)
    assert list(report.ties) == ["label"]
    count, total = report.ties["label"]
    assert 1 <= count <= total <= sum(BATCHES) and report.difference < 1e-5


def test_check_refuses_a_wrong_model_whose_values_tie(tying):
    net, model = tying
    replace(model, "ip.1", np.array([0, 1e-3, 0, 0, 0], np.float32))
    with pytest.raises(
        ExportError, match=r"output 'label' differs .*layer 'ip' \(InnerProduct\) by"
    ):
        check(net, model)


@pytest.mark.parametrize("layer", ["label", "pool", "mask_by_10"])
def test_check_refuses_a_wrong_wire_though_values_tie(tying, layer):
    net, model = tying
    node = next(n for n in model.graph.node if n.name.startswith(layer))
    taken = {"label": "conv", "pool": "image", "mask_by_10": "pool"}
    node.input[0] = taken[layer]
    with pytest.raises(ExportError):
        check(net, model)


def test_check_refuses_wrong_pixels_though_values_tie(tmp_path):
    torch.manual_seed(0)
    net = Net(text.parse(NET + TIES.split('layer { name: "image')[0], pb.NetParameter()), pb.TEST)
    rules = {"x": Preprocess(np.full((4, 3), 2, np.float32), 0.5)}
    model = to_onnx(net, tmp_path / "m.onnx", rules)
    check(net, model, rules)
    replace(model, "x/preprocess/mean", np.full((1, 4, 3), 1000, np.float32))
    with pytest.raises(ExportError, match="'label' differs .*layer 'in' .Input. by itself"):
        check(net, model, rules)


def test_check_refuses_a_fixed_batch(exported):
    net, model = exported
    replace(model, "shape/shape", np.array([1, 12]))
    with pytest.raises(ExportError, match="does not run with a batch of 2"):
        check(net, model)


def test_check_refuses_another_shape(exported):
    net, model = exported
    replace(model, "ip.0", np.ones((6, 12), np.float32))
    replace(model, "ip.1", np.ones(6, np.float32))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 6
    del model.graph.value_info[:]
    with pytest.raises(ExportError, match=r"has the shape \(1, 6\), the net's \(1, 5\)"):
        check(net, model)


def test_check_refuses_a_model_that_is_not_valid(exported):
    net, model = exported
    model.graph.initializer.remove(initializer(model, "ip.0"))
    with pytest.raises(ExportError, match="not valid"):
        check(net, model)


def test_check_refuses_nan_weights_in_the_net_and_in_the_model(exported):
    net, model = exported
    replace(model, "ip.0", np.full((5, 12), np.nan, np.float32))
    with pytest.raises(ExportError, match="differs"):
        check(net, model)
    net.node_of("ip").layer.blobs[0].data.fill_(torch.nan)
    with pytest.raises(ExportError, match="nowhere finite"):
        check(net, model)


def test_check_values_that_are_not_finite_in_both_agree(tmp_path):
    root = 'layer { name: "r" type: "Power" bottom: "x" top: "r" power_param { power: 0.5 } }'
    first = NET.split("layer", 2)[1]
    net = Net(text.parse("layer" + first + root, pb.NetParameter()), pb.TEST)
    samples = [{"x": np.array([[[-1, np.inf, 4]] * 4], np.float32)}]
    report = check(net, to_onnx(net, tmp_path / "m.onnx"), samples=samples)
    assert report.value < 100


def test_check_leaves_the_nets_inputs_and_blobs_as_they_were(exported):
    net, model = exported
    net({"x": torch.ones(2, 4, 3)})
    before = net.blobs["ip"]
    check(net, model)
    assert net.blobs["ip"] is before
    net()
    assert torch.equal(net.blobs["ip"], before)
