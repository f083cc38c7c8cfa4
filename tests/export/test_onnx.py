"""The exported model: its names, its form, and the transformation inside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from caffe_kd.core.errors import CaffeKDError, ExportError
from caffe_kd.data.transformer import Transformer
from caffe_kd.export.check import check
from caffe_kd.export.onnx import to_onnx
from caffe_kd.export.preprocess import preprocess_of
from caffe_kd.net import Net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from tests.export.onnx_nets import ATOL, RTOL, assert_agree, net_of, one, random_inputs, run
from tests.helpers import make_net

GOLDEN = Path(__file__).parents[1] / "golden"
MEAN = GOLDEN / "data" / "mean.binaryproto"
SAMPLE = (3, 20, 24)  # the mean's shape

IMAGE = {"x": (2, 6, 7, 8)}

STUDENT = """
layer { name: "conv" type: "Convolution" bottom: "x" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool"
  pooling_param { kernel_size: 3 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip"
  inner_product_param { num_output: 5 } }
layer { name: "drop" type: "Dropout" bottom: "ip" top: "ip" }
"""
PROB = 'layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }'


def test_student_bears_caffes_names(tmp_path):
    net = net_of(STUDENT + PROB, IMAGE)
    model = to_onnx(net, tmp_path / "m.onnx")
    assert assert_agree(net, model) == ["ip", "prob"]  # the logits and the probabilities
    graph = model.graph
    assert [value.name for value in graph.input] == ["x"]
    assert [d.dim_param or d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == [
        "batch",
        6,
        7,
        8,
    ]
    nodes = [(node.name, list(node.output)) for node in graph.node]
    of_scale = [node for node in nodes if node[0].startswith("scale/")]
    assert of_scale[-1] == ("scale/Add", ["conv/scale"])
    assert [node for node in nodes if node not in of_scale] == [
        ("conv", ["conv/conv"]),
        ("bn", ["conv/bn"]),
        ("relu", ["conv"]),
        ("pool", ["pool"]),
        ("ip/Flatten", ["ip/flat"]),
        ("ip/Gemm", ["ip"]),  # Dropout is gone, and the blob's name is the product's
        ("prob", ["prob"]),
    ]
    blobs = [t.name for t in graph.initializer if "/" not in t.name]
    assert blobs == ["conv.0", "conv.1", "scale.0", "scale.1", "ip.0", "ip.1"]
    for tensor in graph.initializer:
        layer, _, index = tensor.name.partition(".")
        if index:
            wanted = net.node_of(layer).layer.blobs[int(index)].detach().numpy()
            assert np.array_equal(onnx.numpy_helper.to_array(tensor), wanted)
    assert {p.key: p.value for p in model.metadata_props} == {"producer": "caffe_kd", "net": "n"}
    assert (model.producer_name, model.opset_import[0].version, graph.name) == ("caffe_kd", 17, "n")


def test_file_is_the_model_that_is_returned(tmp_path):
    path = tmp_path / "m.onnx"
    model = to_onnx(net_of(STUDENT, IMAGE), path)
    assert onnx.load(path) == model
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_values_between_have_their_shapes(tmp_path):
    model = to_onnx(net_of(STUDENT, IMAGE), tmp_path / "m.onnx")
    shapes = {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in model.graph.value_info
    }
    assert shapes["conv"] == shapes["conv/bn"] == ["batch", 4, 5, 6]
    assert shapes["pool"] == ["batch", 4, 2, 3]


def test_names_that_collide_stay_apart(tmp_path):
    layers = """
    layer { name: "conv" type: "Convolution" bottom: "x" top: "conv.0"
      convolution_param { num_output: 6 kernel_size: 1 } }
    layer { name: "a" type: "ReLU" bottom: "conv.0" top: "conv.0" }
    layer { name: "1" type: "TanH" bottom: "conv.0" top: "conv.0/conv" }
    layer { name: "ip" type: "InnerProduct" bottom: "conv.0/conv" top: "ip/flat"
      inner_product_param { num_output: 3 } }
    layer { name: "ip" type: "Sigmoid" bottom: "ip/flat" top: "ip" }
    layer { name: "b" type: "Eltwise" bottom: "conv.0" bottom: "conv.0/conv" top: "ip/Gemm" }
    """
    net = net_of(layers, IMAGE)
    model = to_onnx(net, tmp_path / "m.onnx")
    assert assert_agree(net, model) == ["ip", "ip/Gemm"]
    values = [name for node in model.graph.node for name in node.output]
    values += [t.name for t in model.graph.initializer]
    nodes = [node.name for node in model.graph.node]
    assert len(set(values)) == len(values) and len(set(nodes)) == len(nodes)


def test_in_place_layer_on_the_input_leaves_it_its_name(tmp_path):
    layers = """
    layer { name: "relu" type: "ReLU" bottom: "x" top: "x" }
    layer { name: "tanh" type: "TanH" bottom: "x" top: "x" }
    """
    net = net_of(layers, IMAGE)
    model = to_onnx(net, tmp_path / "m.onnx")
    assert [v.name for v in model.graph.input] == ["x"]
    assert assert_agree(net, model) == ["x/tanh"]


def test_blob_read_before_and_after_it_is_changed_in_place(tmp_path):
    layers = """
    layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip"
      inner_product_param { num_output: 5 } }
    layer { name: "early" type: "Power" bottom: "ip" top: "early" power_param { scale: 2 } }
    layer { name: "relu" type: "ReLU" bottom: "ip" top: "ip" }
    layer { name: "late" type: "Power" bottom: "ip" top: "late" power_param { scale: 2 } }
    """
    net = net_of(layers, IMAGE)
    model = to_onnx(net, tmp_path / "m.onnx")
    assert assert_agree(net, model) == ["early", "late"]
    assert (run(model, random_inputs(net, 2))["early"] < 0).any()


def test_split_and_dropout_vanish(tmp_path):
    layers = """
    layer { name: "s" type: "Split" bottom: "x" top: "a" top: "b" }
    layer { name: "d" type: "Dropout" bottom: "a" top: "c" }
    layer { name: "sum" type: "Eltwise" bottom: "b" bottom: "c" top: "sum" }
    layer { name: "last" type: "Dropout" bottom: "sum" top: "out" }
    """
    net = net_of(layers, IMAGE)
    model = to_onnx(net, tmp_path / "m.onnx")
    assert assert_agree(net, model) == ["out"]
    assert [(n.op_type, list(n.input)) for n in model.graph.node] == [("Add", ["x", "x"])]


def test_shared_parameter_is_stored_once(tmp_path):
    layers = "".join(
        f"""layer {{ name: "{name}" type: "InnerProduct" bottom: "x" top: "{name}"
        param {{ name: "w" }} inner_product_param {{ num_output: 3 }} }}"""
        for name in ("a", "b")
    )
    net = net_of(layers, IMAGE)
    model = to_onnx(net, tmp_path / "m.onnx")
    assert_agree(net, model)
    assert [t.name for t in model.graph.initializer] == ["a.0", "a.1", "b.1"]


def test_channels_last_net_gives_the_same_file(tmp_path):
    net = net_of(STUDENT, IMAGE)
    plain = to_onnx(net, tmp_path / "a.onnx")
    net.to_device(torch.device("cpu"), channels_last=True)
    assert to_onnx(net, tmp_path / "b.onnx") == plain


def test_input_with_another_first_extent_keeps_it(tmp_path):
    shapes = {"x": (1, 6), "z": (4, 6)}
    net = net_of('layer { name: "r" type: "ReLU" bottom: "z" top: "r" }', shapes)
    model = to_onnx(net, tmp_path / "m.onnx")
    first = [v.type.tensor_type.shape.dim[0] for v in model.graph.input]
    assert [d.dim_param or d.dim_value for d in first] == ["batch", 4]


@pytest.mark.parametrize("opset", [16, 18, 21])
def test_other_opset_gives_equal_outputs(tmp_path, opset):
    net = net_of(STUDENT + PROB, IMAGE)
    model = to_onnx(net, tmp_path / "m.onnx", opset=opset)
    assert [o.version for o in model.opset_import] == [opset]
    assert_agree(net, model)


def test_opset_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(ExportError, match="from opset 17 to 999"):
        to_onnx(net_of(STUDENT, IMAGE), tmp_path / "m.onnx", opset=999)


def test_net_with_a_fixed_batch_says_which_layer(tmp_path):
    net = one("Reshape", "reshape_param { shape { dim: 2 dim: 15 } }", {"x": (2, 5, 3)})
    with pytest.raises(ExportError, match=r"layer 'L' \(Reshape\) cannot take another batch"):
        to_onnx(net, tmp_path / "m.onnx")


NO_INPUT = 'layer { name: "d" type: "DummyData" top: "d" dummy_data_param { shape { dim: 1 } } }'


def test_net_of_phase_train_is_refused(tmp_path):
    net = Net(text.parse(NO_INPUT, pb.NetParameter()), pb.TRAIN)
    with pytest.raises(ExportError, match="phase TEST"):
        to_onnx(net, tmp_path / "m.onnx")


def test_net_without_input_is_refused(tmp_path):
    with pytest.raises(ExportError, match="Input layer"):
        to_onnx(Net(text.parse(NO_INPUT, pb.NetParameter()), pb.TEST), tmp_path / "m.onnx")


def test_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CaffeKDError, match="cannot be written"):
        to_onnx(net_of(STUDENT, IMAGE), tmp_path / "file" / "m.onnx")


def data_layer(transform):
    return text.parse(
        f"""layer {{ name: "d" type: "Data" top: "x" top: "label"
        transform_param {{ {transform} }} }}""",
        pb.NetParameter(),
    ).layer[0]


@pytest.mark.parametrize(
    ("transform", "shape"),
    [
        ("", (2, *SAMPLE)),
        ("scale: 0.00390625", (2, *SAMPLE)),
        ("mean_value: 100 scale: 0.5", (2, *SAMPLE)),
        ("mean_value: 100 mean_value: 110 mean_value: 120.5", (2, *SAMPLE)),
        ("mean_file: 'mean.binaryproto' scale: 0.017", (2, *SAMPLE)),
        ("mean_file: 'mean.binaryproto' crop_size: 7", (2, 3, 7, 7)),
        ("crop_size: 9 scale: 0.25", (2, 3, 9, 9)),
    ],
)
def test_preprocess_converts_pixels_as_the_data_layer(tmp_path, transform, shape):
    layer = data_layer(transform)
    net = net_of(STUDENT, {"x": shape})
    rules = preprocess_of({"x": layer}, net.shapes, lambda _: MEAN)
    model = to_onnx(net, tmp_path / "m.onnx", rules)
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [v.name for v in model.graph.input] == ["x"]
    pixels = np.random.default_rng(0).integers(0, 256, (3, *SAMPLE), dtype=np.uint8)
    floats = Transformer(layer.transform_param, False, lambda _: MEAN)(pixels, torch.Generator())
    height, width = shape[2:]
    top, left = (SAMPLE[1] - height) // 2, (SAMPLE[2] - width) // 2
    window = pixels[:, :, top : top + height, left : left + width]
    output = run(model, {"x": window})["ip"]
    with torch.no_grad():
        net({"x": floats})
    # Values reach hundreds where nothing scales them.
    scale = float(net.blobs["ip"].abs().max())
    np.testing.assert_allclose(output, net.blobs["ip"], rtol=RTOL, atol=ATOL * max(1, scale))
    check(net, model, rules)


@pytest.mark.parametrize(
    ("transform", "shape", "message"),
    [
        ("mean_file: 'm'", (1, 3, 90, 90), "does not fit the input"),
        ("mean_value: 1 mean_value: 2", (1, 3, 9, 9), "as many as channels: 3"),
        ("", (1, 3), "4 axes"),
    ],
)
def test_preprocess_that_does_not_fit_is_an_error(transform, shape, message):
    with pytest.raises(ExportError, match=message):
        preprocess_of({"x": data_layer(transform)}, {"x": shape}, lambda _: MEAN)


def test_preprocess_without_data_layer_is_an_error():
    with pytest.raises(ExportError, match="-preprocess takes mean and scale"):
        preprocess_of({}, {"x": (1, 3, 9, 9)}, lambda _: MEAN)


def test_net_that_ran_another_batch_is_exported_with_any(tmp_path):
    net = make_net(
        'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 } } }'
        'layer { name: "y" type: "ReLU" bottom: "x" top: "y" }'
    )
    net.forward({"x": torch.ones(5, 3)})
    model = to_onnx(net, tmp_path / "net.onnx")
    (x,) = model.graph.input
    assert [d.dim_param or d.dim_value for d in x.type.tensor_type.shape.dim] == ["batch", 3]
