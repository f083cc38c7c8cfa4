"""Every layer type's outputs in ONNX Runtime."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from caffe_kd.export.check import check
from caffe_kd.export.onnx import output_names, to_onnx
from caffe_kd.layers import layer_types
from caffe_kd.layers.docstring import docstring_of
from caffe_kd.net import Net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from tests.export.onnx_nets import assert_agree, net_of, one

GOLDEN = Path(__file__).parents[1] / "golden"

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


def test_every_type_that_is_deployed_has_a_case_or_is_run_by_its_sample(tmp_path):
    dropped = {"Accuracy", "Input", "LearningRate", "Silence", "Parameter", "HDF5Output"}
    # Three are refused, and Upsample's mask must be a Pooling's: their own tests hold that.
    own_tests = {"DetectionOutput", "ONNXModel", "PSROIPooling", "Upsample"}
    for name, kind in layer_types().items():
        is_deployed = not kind.is_loss and kind.bottoms[0] > 0 and not kind.no_onnx
        if is_deployed and name not in dropped | own_tests | set(CASES):
            sample = docstring_of(kind).sample
            shapes = {
                bottom: tuple(map(int, re.findall(r"\d+", shape)))
                for bottom, shape in re.findall(r'bottom: "(\w+)"  # \((.*?)\)', sample)
            }
            assert sample and shapes, f"{name} has neither a case here nor a sample"
            net = net_of(sample, shapes)
            assert_agree(net, to_onnx(net, tmp_path / f"{name}.onnx"))


@pytest.mark.parametrize(
    ("type_name", "options", "shapes"),
    [(name, *case) for name, cases in CASES.items() for case in cases],
)
def test_layer_agrees_with_onnx_runtime(tmp_path, type_name, options, shapes):
    net = one(type_name, options, shapes)
    model = to_onnx(net, tmp_path / "m.onnx")
    assert assert_agree(net, model) == list(net.node_of("L").tops)
    declared = [value.type.tensor_type.shape.dim for value in model.graph.output]
    for dims, blob in zip(declared, output_names(net), strict=True):
        sizes = [d.dim_param or d.dim_value for d in dims]
        if sizes[0] == "batch":
            assert sizes[1:] == list(net.shapes[blob][1:])


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
    for node in net.nodes:
        for blob in node.layer.parameters_in_order:
            torch.nn.init.uniform_(blob, 0.2, 1)
    check(net, to_onnx(net, tmp_path / "m.onnx"))
