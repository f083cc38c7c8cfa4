"""The exported model: every layer type's answers in ONNX Runtime, and its names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from caffe_kd.data.transformer import Transformer
from caffe_kd.errors import CaffeKDError, ExportError
from caffe_kd.export.check import check, index_counts
from caffe_kd.export.onnx import output_names, to_onnx
from caffe_kd.export.preprocess import preprocess_of
from caffe_kd.layers import layer_types
from caffe_kd.net import Net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from tests.helpers import make_net

GOLDEN = Path(__file__).parents[1] / "golden"
MEAN = GOLDEN / "data" / "mean.binaryproto"
RECORD = (3, 20, 24)  # the mean's shape

# Float32 sums in another order; the layers here add at most some hundred terms.
RTOL, ATOL = 1e-5, 1e-5

IMAGE = {"x": (2, 6, 7, 8)}
TWO = {"x": (2, 6, 7, 8), "z": (2, 6, 7, 8)}

# Layer type: how it is written, and the shapes of its bottoms.
CASES = {
    "AbsVal": [("", IMAGE)],
    "ArgMax": [
        ("", {"x": (2, 6)}),
        ("argmax_param { out_max_val: true top_k: 2 }", IMAGE),
        ("argmax_param { axis: 1 }", IMAGE),
    ],
    "Axpy": [
        ("", {"a": (2, 6), "x": (2, 6, 7, 8), "y0": (2, 6, 7, 8)}),
        ("", {"a": (2, 6, 1, 1), "x": (2, 6, 7, 8), "y0": (2, 6, 7, 8)}),
        ("", {"a": (2, 6), "x": (2, 6), "y0": (2, 6)}),
    ],
    "BNLL": [("", IMAGE)],
    "BatchNorm": [
        ("", IMAGE),
        ("batch_norm_param { eps: 0.1 }", {"x": (2, 6)}),
        ("", {"x": (2,)}),
    ],
    "BN": [
        ("bn_param { eps: 0.1 }", IMAGE),
        ("bn_param { frozen: true }", {"x": (2, 6)}),
        ("bn_param { bn_mode: INFERENCE }", IMAGE),
        ("bn_param { bn_mode: INFERENCE }", {"x": (2, 6, 5)}),
    ],
    "BatchReindex": [("", {"x": (2, 6, 7), "z": (2,)})],
    "Bias": [("", IMAGE), ("bias_param { axis: 2 num_axes: 2 }", IMAGE)],
    "Clip": [("clip_param { min: -0.5 max: 1 }", IMAGE)],
    "ClassMap": [
        ("class_map_param { class: 3 class: 0 }", {"x": (2, 6)}),
        ("class_map_param { group { class: 3 class: 0 } group { class: 5 } }", IMAGE),
    ],
    "Concat": [("", TWO), ("concat_param { axis: -1 }", TWO), ("concat_param { axis: 0 }", TWO)],
    "Convolution": [
        ("convolution_param { num_output: 4 kernel_size: 3 }", IMAGE),
        ("convolution_param { num_output: 4 kernel_size: 3 pad: 2 stride: 2 group: 2 }", IMAGE),
        ("convolution_param { num_output: 4 kernel_h: 1 kernel_w: 3 pad_w: 1 }", IMAGE),
        ("convolution_param { num_output: 4 kernel_size: 2 dilation: 2 bias_term: false }", IMAGE),
        ("convolution_param { num_output: 4 kernel_size: 3 }", {"x": (2, 6, 9)}),
        ("convolution_param { num_output: 4 kernel_size: 2 }", {"x": (2, 3, 4, 5, 6)}),
    ],
    "ConvolutionDepthwise": [
        ("convolution_param { num_output: 6 kernel_size: 3 pad: 1 stride: 2 }", IMAGE),
    ],
    "DepthwiseConvolution": [
        ("convolution_param { num_output: 12 kernel_size: 3 group: 6 }", IMAGE),
    ],
    "Deconvolution": [
        ("convolution_param { num_output: 4 kernel_size: 4 stride: 2 pad: 1 group: 2 }", IMAGE),
    ],
    "Crop": [
        ("", {"x": (2, 6, 7, 8), "z": (2, 6, 4, 5)}),
        (
            "crop_param { axis: 1 offset: 1 offset: 2 offset: 3 }",
            {"x": IMAGE["x"], "z": (2, 4, 4, 5)},
        ),
    ],
    "Dropout": [("", IMAGE)],
    "ELU": [("", IMAGE), ("elu_param { alpha: 0.3 }", IMAGE)],
    "Eltwise": [
        ("", TWO),
        ("eltwise_param { operation: SUM coeff: 0.5 coeff: -1 }", TWO),
        ("eltwise_param { operation: PROD }", TWO),
        ("eltwise_param { operation: MAX }", TWO | {"w": (2, 6, 7, 8)}),
    ],
    "Embed": [
        ("embed_param { num_output: 4 input_dim: 9 }", {"x": (2, 6)}),
        ("embed_param { num_output: 4 input_dim: 9 bias_term: false }", {"x": (2,)}),
    ],
    "Exp": [("", IMAGE), ("exp_param { base: 2 scale: 0.5 shift: -1 }", IMAGE)],
    "Filter": [("", {"x": (2, 6, 7), "z": (2, 1)})],
    "Flatten": [
        ("", IMAGE),
        ("flatten_param { axis: 2 }", IMAGE),
        ("flatten_param { axis: 0 end_axis: 1 }", IMAGE),
    ],
    "Im2col": [
        ("convolution_param { kernel_size: 3 pad: 1 stride: 2 dilation: 2 }", IMAGE),
        ("convolution_param { kernel_size: 2 }", {"x": (2, 3, 4, 5, 6)}),
    ],
    "InnerProduct": [
        ("inner_product_param { num_output: 4 }", IMAGE),
        ("inner_product_param { num_output: 4 }", {"x": (2, 6)}),
        ("inner_product_param { num_output: 4 transpose: true }", IMAGE),
        ("inner_product_param { num_output: 4 bias_term: false }", IMAGE),
        ("inner_product_param { num_output: 4 axis: 2 }", IMAGE),
        ("inner_product_param { num_output: 4 axis: -1 bias_term: false }", IMAGE),
        ("inner_product_param { num_output: 4 axis: 2 transpose: true }", {"x": (2, 6, 5)}),
    ],
    "Interp": [
        ("interp_param { zoom_factor: 2 pad_end: -1 }", IMAGE),
        ("interp_param { height: 3 width: 9 }", IMAGE),
    ],
    "LRN": [
        ("lrn_param { local_size: 3 alpha: 0.5 k: 2 }", IMAGE),
        ("lrn_param { norm_region: WITHIN_CHANNEL local_size: 3 alpha: 0.5 }", IMAGE),
    ],
    "LSTM": [
        ("recurrent_param { num_output: 4 }", {"x": (2, 6, 7), "cont": (2, 6)}),
    ],
    "LSTMUnit": [('top: "h"', {"c": (2, 3, 4), "gates": (2, 3, 16), "cont": (2, 3)})],
    "Log": [("log_param { shift: 9 }", IMAGE), ("log_param { base: 10 }", IMAGE)],
    "MVN": [
        ("", IMAGE),
        ("mvn_param { across_channels: true eps: 0.5 }", IMAGE),
        ("mvn_param { normalize_variance: false }", {"x": (2, 6, 7)}),
    ],
    "Normalize": [
        ("", IMAGE),
        ("norm_param { across_spatial: false channel_shared: false eps: 0.1 }", IMAGE),
    ],
    "PReLU": [("", IMAGE), ("prelu_param { channel_shared: true }", IMAGE), ("", {"x": (2, 6)})],
    "Permute": [
        ("permute_param { order: 0 order: 2 order: 3 order: 1 }", IMAGE),
        ("permute_param { order: 1 }", IMAGE),
    ],
    "Pooling": [
        ("pooling_param { kernel_size: 2 stride: 2 }", IMAGE),
        ("pooling_param { kernel_size: 3 stride: 2 }", IMAGE),
        ("pooling_param { kernel_size: 3 stride: 2 pad: 1 }", IMAGE),
        ("pooling_param { kernel_size: 3 stride: 2 pad: 2 }", IMAGE),
        ("pooling_param { kernel_size: 2 stride: 3 }", IMAGE),
        ("pooling_param { kernel_size: 1 stride: 3 }", IMAGE),
        ("pooling_param { kernel_size: 3 stride: 2 round_mode: FLOOR }", IMAGE),
        ("pooling_param { kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1 }", IMAGE),
        ("pooling_param { global_pooling: true }", IMAGE),
        ("pooling_param { pool: AVE kernel_size: 3 stride: 2 }", IMAGE),
        ("pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }", IMAGE),
        ("pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 2 }", IMAGE),
        ("pooling_param { pool: AVE kernel_size: 1 stride: 2 }", {"x": (2, 6, 7, 9)}),
        ("pooling_param { pool: AVE kernel_size: 2 stride: 5 pad: 1 }", IMAGE),
        ("pooling_param { pool: AVE global_pooling: true }", IMAGE),
        ('top: "mask" pooling_param { kernel_size: 3 stride: 2 pad: 1 }', IMAGE),
        ('top: "mask" pooling_param { kernel_size: 3 stride: 2 pad: 2 }', IMAGE),
    ],
    "Power": [("", IMAGE), ("power_param { power: 2 scale: 0.5 shift: -1 }", IMAGE)],
    "RNN": [("recurrent_param { num_output: 4 }", {"x": (2, 6, 7), "cont": (2, 6)})],
    "ReLU": [("", IMAGE), ("relu_param { negative_slope: 0.2 }", IMAGE)],
    "PriorBox": [
        ("prior_box_param { min_size: 9 aspect_ratio: 2 }", IMAGE | {"z": (2, 3, 60, 90)}),
    ],
    "ROIPooling": [
        ("roi_pooling_param { pooled_h: 3 pooled_w: 2 }", IMAGE | {"z": (2, 5)}),
    ],
    "ReLU6": [("", IMAGE)],
    "Reduction": [
        ("reduction_param { axis: 1 }", IMAGE),
        ("reduction_param { operation: MEAN axis: 1 coeff: 3 }", IMAGE),
        ("reduction_param { operation: ASUM axis: -1 }", IMAGE),
        ("reduction_param { operation: SUMSQ axis: 2 }", IMAGE),
    ],
    "Reorg": [
        ("reorg_param { stride: 2 }", {"x": (2, 8, 4, 6)}),
        ("reorg_param { stride: 2 reverse: true }", {"x": (2, 8, 3, 5)}),
    ],
    "Reshape": [
        ("reshape_param { shape { dim: 0 dim: -1 } }", IMAGE),
        ("reshape_param { shape { dim: 0 dim: 3 dim: 2 dim: -1 dim: 0 } }", {"x": (2, 6, 7, 4, 4)}),
        ("reshape_param { axis: 1 num_axes: 1 shape { dim: 2 dim: 3 } }", IMAGE),
        ("reshape_param { shape { dim: -1 dim: 7 } }", IMAGE),
    ],
    "SPP": [
        ("spp_param { pyramid_height: 3 }", {"x": (2, 6, 9, 11)}),
        ("spp_param { pyramid_height: 2 pool: AVE }", IMAGE),
    ],
    "Scale": [
        ("", IMAGE),
        ("scale_param { bias_term: true }", IMAGE),
        ("scale_param { axis: 2 num_axes: -1 bias_term: true }", IMAGE),
        ("scale_param { axis: 0 }", {"x": (2, 6, 7), "z": (2, 6)}),
    ],
    "ShuffleChannel": [("shuffle_channel_param { group: 3 }", IMAGE)],
    "Sigmoid": [("", IMAGE)],
    "Slice": [
        ('top: "y2"', IMAGE),
        ('top: "y2" top: "y3" slice_param { axis: 3 slice_point: 1 slice_point: 4 }', IMAGE),
    ],
    "Softmax": [
        ("", {"x": (2, 6)}),
        ("", IMAGE),
        ("softmax_param { axis: -1 }", IMAGE),
        ("softmax_param { temperature: 4 }", IMAGE),
    ],
    "SoftmaxTemperature": [
        ("softmax_temperature_param { temperature: 3 }", IMAGE),
        ("softmax_temperature_param { temperature: 3 is_append: true }", {"x": (2, 6)}),
        ("softmax_param { axis: -1 } softmax_temperature_param { is_append: true }", IMAGE),
    ],
    "SoftmaxWithTemperature": [
        ("softmax_with_temperature_param { temperature: 4 }", {"x": (2, 6)}),
    ],
    "Split": [('top: "y2" top: "y3"', IMAGE)],
    "Swish": [("", IMAGE), ("swish_param { beta: 0.3 }", IMAGE)],
    "TanH": [("", IMAGE)],
    "TeacherEnsemble": [
        ("teacher_ensemble_param { weight: 1 weight: 3 }", {"x": (2, 6), "z": (2, 6)}),
        ("teacher_ensemble_param { mean: LOGITS }", TWO),
    ],
    "Threshold": [("threshold_param { threshold: 0.3 }", IMAGE)],
    "Tile": [("tile_param { tiles: 2 }", IMAGE), ("tile_param { axis: 0 tiles: 3 }", IMAGE)],
}


def net_of(layers, shapes):
    """Build a net of phase TEST with random blobs."""
    inputs = "".join(
        f'layer {{ name: "in_{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
        + " ".join(f"dim: {extent}" for extent in shape)
        + " } } }\n"
        for name, shape in shapes.items()
    )
    net = Net(text.parse('name: "n"' + inputs + layers, pb.NetParameter()), pb.TEST)
    generator = torch.Generator().manual_seed(0)
    for step in net.steps:
        for blob in step.layer.parameters_in_order:
            values = torch.rand(blob.shape, generator=generator)
            # BatchNorm's blobs are sums of positive terms, or means; any other blob has both signs.
            is_normal = step.layer.type in ("BatchNorm", "BN")
            blob.data = values + 0.5 if is_normal else values - 0.5
    return net


def one(type_name, options, shapes):
    bottoms = " ".join(f'bottom: "{name}"' for name in shapes)
    layer = f'layer {{ name: "L" type: "{type_name}" {bottoms} top: "y" {options} }}'
    return net_of(layer, shapes)


def random_inputs(net, batch):
    generator = np.random.default_rng(batch)
    counts = index_counts(net)
    values = {}
    for name in net.inputs:
        shape = (batch, *net.shapes[name][1:])
        if name in counts:
            values[name] = generator.integers(0, counts[name], shape).astype(np.float32)
        else:
            values[name] = generator.standard_normal(shape, dtype=np.float32)
    return values


def run(model, inputs):
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def assert_agree(net, model, batches=(1, 3)):
    """Hold the model against the net at each batch; return the outputs' names."""
    for batch in batches:
        inputs = random_inputs(net, batch)
        answers = run(model, inputs)
        for step in net.steps:
            step.layer.reset()  # as every run of the model begins
        with torch.no_grad():
            net({name: torch.from_numpy(value) for name, value in inputs.items()})
        for blob, answer in zip(output_names(net), answers.values(), strict=True):
            wanted = net.blobs[blob].numpy()
            assert answer.shape == wanted.shape
            np.testing.assert_allclose(answer, wanted, rtol=RTOL, atol=ATOL)
    return list(answers)


def test_every_type_that_is_deployed_has_a_case():
    dropped = {"Accuracy", "Input", "LearningRate", "Silence", "Parameter", "HDF5Output"}
    deployed = {
        name
        for name, cls in layer_types().items()
        if not cls.is_loss and cls.bottoms[0] > 0 and name not in dropped
    }
    # Three are refused, and Upsample's mask must be a Pooling's: their own tests hold that.
    own_tests = {"DetectionOutput", "ONNXModel", "PSROIPooling", "Upsample"}
    assert deployed <= set(CASES) | own_tests


@pytest.mark.parametrize(
    ("type_name", "options", "shapes"),
    [(name, *case) for name, cases in CASES.items() for case in cases],
)
def test_layer_agrees_with_onnx_runtime(tmp_path, type_name, options, shapes):
    net = one(type_name, options, shapes)
    model = to_onnx(net, tmp_path / "m.onnx")
    assert assert_agree(net, model) == list(net.step_of("L").tops)
    declared = [value.type.tensor_type.shape.dim for value in model.graph.output]
    for dims, blob in zip(declared, output_names(net), strict=True):
        extents = [d.dim_param or d.dim_value for d in dims]
        if extents[0] == "batch":
            assert extents[1:] == list(net.shapes[blob][1:])


def recorded():
    """Return the recorded cases of layers that are deployed, by name."""
    types = layer_types()
    judging = {name for name, cls in types.items() if cls.is_loss} | {"Accuracy"}
    cases = {}
    for path in sorted((GOLDEN / "layers").glob("*.prototxt")):
        param = text.read(path, pb.NetParameter())
        param.ClearField("state")  # recorded in phase TRAIN; exported in TEST
        if judging.isdisjoint(layer.type for layer in param.layer):
            cases[path.stem] = param
    return cases


@pytest.mark.parametrize("param", [pytest.param(p, id=name) for name, p in recorded().items()])
def test_recorded_layer_agrees_with_onnx_runtime(tmp_path, param):
    net = Net(param, pb.TEST)
    for step in net.steps:
        for blob in step.layer.parameters_in_order:
            torch.nn.init.uniform_(blob, 0.2, 1)
    check(net, to_onnx(net, tmp_path / "m.onnx"))


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
            wanted = net.step_of(layer).layer.blobs[int(index)].detach().numpy()
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
    told = {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in model.graph.value_info
    }
    assert told["conv"] == told["conv/bn"] == ["batch", 4, 5, 6]
    assert told["pool"] == ["batch", 4, 2, 3]


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
    net.place(torch.device("cpu"), channels_last=True)
    assert to_onnx(net, tmp_path / "b.onnx") == plain


def test_input_with_another_first_extent_keeps_it(tmp_path):
    shapes = {"x": (1, 6), "z": (4, 6)}
    net = net_of('layer { name: "r" type: "ReLU" bottom: "z" top: "r" }', shapes)
    model = to_onnx(net, tmp_path / "m.onnx")
    first = [v.type.tensor_type.shape.dim[0] for v in model.graph.input]
    assert [d.dim_param or d.dim_value for d in first] == ["batch", 4]


@pytest.mark.parametrize("opset", [16, 18, 21])
def test_other_opset_answers_the_same(tmp_path, opset):
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
        ("", (2, *RECORD)),
        ("scale: 0.00390625", (2, *RECORD)),
        ("mean_value: 100 scale: 0.5", (2, *RECORD)),
        ("mean_value: 100 mean_value: 110 mean_value: 120.5", (2, *RECORD)),
        ("mean_file: 'mean.binaryproto' scale: 0.017", (2, *RECORD)),
        ("mean_file: 'mean.binaryproto' crop_size: 7", (2, 3, 7, 7)),
        ("crop_size: 9 scale: 0.25", (2, 3, 9, 9)),
    ],
)
def test_preprocess_answers_to_pixels_as_the_data_layer(tmp_path, transform, shape):
    layer = data_layer(transform)
    net = net_of(STUDENT, {"x": shape})
    rules = preprocess_of({"x": layer}, net.shapes, lambda _: MEAN)
    model = to_onnx(net, tmp_path / "m.onnx", rules)
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [v.name for v in model.graph.input] == ["x"]
    pixels = np.random.default_rng(0).integers(0, 256, (3, *RECORD), dtype=np.uint8)
    floats = Transformer(layer.transform_param, False, lambda _: MEAN)(pixels, torch.Generator())
    height, width = shape[2:]
    top, left = (RECORD[1] - height) // 2, (RECORD[2] - width) // 2
    window = pixels[:, :, top : top + height, left : left + width]
    answer = run(model, {"x": window})["ip"]
    with torch.no_grad():
        net({"x": floats})
    # Values reach hundreds where nothing scales them.
    scale = float(net.blobs["ip"].abs().max())
    np.testing.assert_allclose(answer, net.blobs["ip"], rtol=RTOL, atol=ATOL * max(1, scale))
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
