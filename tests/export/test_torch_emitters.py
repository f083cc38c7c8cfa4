"""Every layer type as PyTorch code: its outputs equal the layer's, for two batch sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from caffe_kd.export.deploy import becomes_input, is_left_out
from caffe_kd.export.torch_emitters import EMITTERS
from caffe_kd.layers import layer_types
from tests.export.written import Written, randomized
from tests.helpers import layer_net

Shapes = list[tuple[int, ...]]

PLANE, FLAT = (2, 4, 7, 6), (3, 5)
SEQUENCE, CONT, STATE = (3, 2, 4), (3, 2), (1, 2, 5)
DETECTION = "num_classes: 3 confidence_threshold: 0.1 nms_param { nms_threshold: 0.4 top_k: 9 }"
PRIORS = [(2, 48), (2, 36), (1, 2, 48)]

# Of each case the type with its parameters, the bottoms' shapes and the number of tops.
CASES: dict[str, tuple[str, Shapes, int]] = {
    "conv": (
        'type: "Convolution" convolution_param { num_output: 6 kernel_h: 3 kernel_w: 2 stride: 2 '
        "pad: 1 group: 2 }",
        [PLANE],
        1,
    ),
    "conv_dilated": (
        'type: "Convolution" convolution_param { num_output: 3 kernel_size: 2 dilation: 2 '
        "bias_term: false }",
        [PLANE, PLANE],
        2,
    ),
    "conv_1d": (
        'type: "Convolution" convolution_param { num_output: 3 kernel_size: 3 }',
        [(2, 4, 9)],
        1,
    ),
    "depthwise": ('type: "DepthwiseConvolution" convolution_param { kernel_size: 3 }', [PLANE], 1),
    "depthwise_2": (
        'type: "ConvolutionDepthwise" convolution_param { kernel_size: 3 }',
        [PLANE],
        1,
    ),
    "deconv": (
        'type: "Deconvolution" convolution_param { num_output: 6 kernel_size: 4 stride: 2 pad: 1 '
        "group: 2 }",
        [PLANE],
        1,
    ),
    "ip": ('type: "InnerProduct" inner_product_param { num_output: 3 }', [PLANE], 1),
    "ip_transposed": (
        'type: "InnerProduct" inner_product_param { num_output: 3 transpose: true axis: 2 '
        "bias_term: false }",
        [PLANE],
        1,
    ),
    "batch_norm": ('type: "BatchNorm" batch_norm_param { eps: 0.001 }', [PLANE], 1),
    "batch_norm_flat": ('type: "BatchNorm"', [FLAT], 1),
    "scale": ('type: "Scale" scale_param { bias_term: true }', [PLANE], 1),
    "scale_given": (
        'type: "Scale" scale_param { axis: 0 bias_term: true }',
        [PLANE, (2, 4)],
        1,
    ),
    "bias": ('type: "Bias"', [PLANE], 1),
    "bias_given": ('type: "Bias" bias_param { axis: 1 }', [PLANE, (4, 7)], 1),
    "prelu": ('type: "PReLU"', [PLANE], 1),
    "prelu_shared": ('type: "PReLU" prelu_param { channel_shared: true }', [PLANE], 1),
    "normalize": (
        'type: "Normalize" norm_param { across_spatial: false channel_shared: false }',
        [PLANE],
        1,
    ),
    "normalize_all": ('type: "Normalize"', [PLANE], 1),
    "max": ('type: "Pooling" pooling_param { kernel_size: 3 stride: 2 }', [PLANE], 1),
    "max_padded": ('type: "Pooling" pooling_param { kernel_size: 3 stride: 2 pad: 1 }', [PLANE], 1),
    "max_wide_pad": (
        'type: "Pooling" pooling_param { kernel_size: 3 stride: 2 pad: 2 }',
        [PLANE],
        1,
    ),
    "max_skipping": ('type: "Pooling" pooling_param { kernel_size: 1 stride: 2 }', [PLANE], 1),
    "max_floor": (
        'type: "Pooling" pooling_param { kernel_size: 3 stride: 2 round_mode: FLOOR }',
        [PLANE],
        1,
    ),
    "max_global": ('type: "Pooling" pooling_param { global_pooling: true }', [PLANE], 1),
    "ave": ('type: "Pooling" pooling_param { pool: AVE kernel_size: 3 stride: 2 }', [PLANE], 1),
    "ave_padded": (
        'type: "Pooling" pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }',
        [PLANE],
        1,
    ),
    "ave_wide_pad": (
        'type: "Pooling" pooling_param { pool: AVE kernel_h: 3 kernel_w: 5 stride: 2 pad: 2 }',
        [PLANE],
        1,
    ),
    "ave_global": ('type: "Pooling" pooling_param { pool: AVE global_pooling: true }', [PLANE], 1),
    "lrn": ('type: "LRN" lrn_param { local_size: 3 alpha: 0.5 k: 2 }', [PLANE], 1),
    "lrn_wider_than_channels": ('type: "LRN" lrn_param { local_size: 11 alpha: 2 }', [PLANE], 1),
    "lrn_within": (
        'type: "LRN" lrn_param { norm_region: WITHIN_CHANNEL local_size: 3 alpha: 2 }',
        [PLANE],
        1,
    ),
    "relu": ('type: "ReLU"', [PLANE], 1),
    "relu_leaky": ('type: "ReLU" relu_param { negative_slope: 0.1 }', [PLANE], 1),
    "relu6": ('type: "ReLU6"', [PLANE], 1),
    "sigmoid": ('type: "Sigmoid"', [FLAT], 1),
    "tanh": ('type: "TanH"', [FLAT], 1),
    "elu": ('type: "ELU" elu_param { alpha: 0.7 }', [FLAT], 1),
    "dropout": ('type: "Dropout" dropout_param { dropout_ratio: 0.4 }', [FLAT], 1),
    "softmax": ('type: "Softmax"', [PLANE], 1),
    "softmax_cooled": ('type: "Softmax" softmax_param { axis: -1 temperature: 4 }', [PLANE], 1),
    "flatten": ('type: "Flatten"', [PLANE], 1),
    "flatten_inner": ('type: "Flatten" flatten_param { axis: 1 end_axis: 2 }', [PLANE], 1),
    "sum": ('type: "Eltwise" eltwise_param { coeff: 1 coeff: -0.3 }', [FLAT, FLAT], 1),
    "product": ('type: "Eltwise" eltwise_param { operation: PROD }', [FLAT, FLAT, FLAT], 1),
    "greatest": ('type: "Eltwise" eltwise_param { operation: MAX }', [FLAT, FLAT, FLAT], 1),
    "concat": ('type: "Concat" concat_param { axis: 2 }', [PLANE, (2, 4, 1, 6)], 1),
    "slice": ('type: "Slice" slice_param { axis: 1 slice_point: 1 }', [PLANE], 2),
    "slice_one": ('type: "Slice"', [PLANE], 1),
    "split": ('type: "Split"', [FLAT], 2),
    "reshape": ('type: "Reshape" reshape_param { shape { dim: 0 dim: -1 dim: 3 } }', [PLANE], 1),
    "reshape_batch": ('type: "Reshape" reshape_param { shape { dim: -1 dim: 6 } }', [PLANE], 1),
    "reshape_inner": (
        'type: "Reshape" reshape_param { shape { dim: 2 dim: 2 } axis: 1 num_axes: 1 }',
        [PLANE],
        1,
    ),
    "permute": ('type: "Permute" permute_param { order: 0 order: 2 order: 3 }', [PLANE], 1),
    "shuffle": ('type: "ShuffleChannel" shuffle_channel_param { group: 2 }', [PLANE], 1),
    "tile": ('type: "Tile" tile_param { axis: 2 tiles: 3 }', [PLANE], 1),
    "mean": ('type: "Reduction" reduction_param { operation: MEAN axis: 1 coeff: 2 }', [PLANE], 1),
    "asum": ('type: "Reduction" reduction_param { operation: ASUM axis: 2 }', [PLANE], 1),
    "sumsq": ('type: "Reduction" reduction_param { operation: SUMSQ axis: 1 }', [PLANE], 1),
    "total": ('type: "Reduction"', [PLANE], 1),
    "crop": ('type: "Crop" crop_param { offset: 2 offset: 1 }', [PLANE, (2, 4, 5, 3)], 1),
    "interp": ('type: "Interp" interp_param { height: 11 width: 9 pad_beg: -1 }', [PLANE], 1),
    "abs": ('type: "AbsVal"', [FLAT], 1),
    "bnll": ('type: "BNLL"', [FLAT], 1),
    "clip": ('type: "Clip" clip_param { min: -0.5 max: 0.7 }', [FLAT], 1),
    "swish": ('type: "Swish" swish_param { beta: 1.5 }', [FLAT], 1),
    "silu": ('type: "Swish"', [FLAT], 1),
    "threshold": ('type: "Threshold" threshold_param { threshold: 0.2 }', [FLAT], 1),
    "power": ('type: "Power" power_param { power: 2 scale: -0.5 shift: 1 }', [FLAT], 1),
    "power_0": ('type: "Power" power_param { power: 2 scale: 0 shift: 3 }', [FLAT], 1),
    "exp": ('type: "Exp" exp_param { base: 2 scale: 0.5 shift: 1 }', [FLAT], 1),
    "log": ('type: "Log" log_param { base: 10 scale: 0.1 shift: 9 }', [FLAT], 1),
    "batch_norm_many_axes": ('type: "BatchNorm"', [(2, 3, 1, 2, 2, 3)], 1),
    "batch_norm_of_the_batch": (
        'type: "BatchNorm" batch_norm_param { use_global_stats: false }',
        [PLANE],
        1,
    ),
    "bn": ('type: "BN" bn_param { momentum: 0.95 eps: 0.01 }', [PLANE], 1),
    "bn_flat": ('type: "BN"', [FLAT], 1),
    "bn_inference": ('type: "BN" bn_param { bn_mode: INFERENCE }', [PLANE], 1),
    "bn_learn": ('type: "BN" bn_param { bn_mode: LEARN }', [PLANE], 3),
    "embed": ('type: "Embed" embed_param { input_dim: 7 num_output: 3 }', [FLAT], 1),
    "embed_plain": (
        'type: "Embed" embed_param { input_dim: 7 num_output: 3 bias_term: false }',
        [(4, 2, 3)],
        1,
    ),
    "parameter": ('type: "Parameter" parameter_param { shape { dim: 3 dim: 2 } }', [], 1),
    "mvn": ('type: "MVN"', [PLANE], 1),
    "mvn_across": ('type: "MVN" mvn_param { across_channels: true eps: 0.1 }', [PLANE], 1),
    "mvn_mean": ('type: "MVN" mvn_param { normalize_variance: false }', [PLANE], 1),
    "mvn_three_axes": ('type: "MVN" mvn_param { across_channels: true }', [(2, 4, 6)], 1),
    "max_mask": ('type: "Pooling" pooling_param { kernel_size: 3 stride: 2 }', [PLANE], 2),
    "max_mask_wide_pad": (
        'type: "Pooling" pooling_param { kernel_size: 3 stride: 2 pad: 2 }',
        [PLANE],
        2,
    ),
    "max_mask_global": ('type: "Pooling" pooling_param { global_pooling: true }', [PLANE], 2),
    "upsample": (
        'type: "Upsample" upsample_param { scale: 2 pad_out_w: 1 }',
        [(2, 3, 3, 4), (2, 3, 3, 4)],
        1,
    ),
    "spp": ('type: "SPP" spp_param { pyramid_height: 3 }', [(2, 3, 9, 10)], 1),
    "spp_ave": ('type: "SPP" spp_param { pyramid_height: 2 pool: AVE }', [(2, 3, 5, 7)], 1),
    "spp_one_level": ('type: "SPP" spp_param { pyramid_height: 1 }', [PLANE], 1),
    "reorg": ('type: "Reorg" reorg_param { stride: 2 }', [(2, 8, 4, 6)], 1),
    "reorg_reverse": ('type: "Reorg" reorg_param { stride: 2 reverse: true }', [(2, 8, 3, 2)], 1),
    "im2col": (
        'type: "Im2col" convolution_param { kernel_h: 3 kernel_w: 2 stride: 2 pad: 1 dilation: 2 }',
        [PLANE],
        1,
    ),
    "axpy": ('type: "Axpy"', [(2, 4), PLANE, PLANE], 1),
    "axpy_planes": ('type: "Axpy"', [(2, 4, 1, 1), PLANE, PLANE], 1),
    "axpy_flat": ('type: "Axpy"', [(3, 5, 1, 1), FLAT, FLAT], 1),
    "arg_max": ('type: "ArgMax"', [FLAT], 1),
    "arg_max_values": ('type: "ArgMax" argmax_param { top_k: 3 out_max_val: true }', [PLANE], 1),
    "arg_max_axis": ('type: "ArgMax" argmax_param { axis: -2 top_k: 2 }', [PLANE], 1),
    "arg_max_axis_values": (
        'type: "ArgMax" argmax_param { axis: 1 out_max_val: true }',
        [PLANE],
        1,
    ),
    "batch_reindex": ('type: "BatchReindex"', [FLAT, (4,)], 1),
    "filter": ('type: "Filter"', [(5, 2), (5, 3, 2), (5, 1, 1)], 2),
    "softmax_with_temperature": (
        'type: "SoftmaxWithTemperature" softmax_with_temperature_param { temperature: 3 }',
        [FLAT],
        1,
    ),
    "softmax_temperature": (
        'type: "SoftmaxTemperature" softmax_temperature_param { temperature: 3 }',
        [FLAT],
        1,
    ),
    "softmax_appended": (
        'type: "SoftmaxTemperature" softmax_temperature_param { is_append: true }',
        [PLANE],
        1,
    ),
    "class_map": ('type: "ClassMap" class_map_param { class: 3 class: 0 axis: -1 }', [FLAT], 1),
    "class_map_groups": (
        'type: "ClassMap" class_map_param { temperature: 2 group { class: 3 class: 0 } '
        "group { class: 1 } }",
        [PLANE],
        1,
    ),
    "ensemble": (
        'type: "TeacherEnsemble" teacher_ensemble_param { weight: 1 weight: 0 weight: 3 }',
        [FLAT, FLAT, FLAT],
        1,
    ),
    "ensemble_logits": (
        'type: "TeacherEnsemble" teacher_ensemble_param { mean: LOGITS }',
        [FLAT, FLAT],
        1,
    ),
    "lstm": ('type: "LSTM" recurrent_param { num_output: 5 }', [SEQUENCE, CONT], 1),
    "lstm_wide": ('type: "LSTM" recurrent_param { num_output: 5 }', [(3, 2, 2, 2), CONT], 1),
    "lstm_exposed": (
        'type: "LSTM" recurrent_param { num_output: 5 expose_hidden: true }',
        [SEQUENCE, CONT, (2, 6), STATE, STATE],
        3,
    ),
    "rnn": ('type: "RNN" recurrent_param { num_output: 5 }', [SEQUENCE, CONT, (2, 6)], 1),
    "rnn_exposed": (
        'type: "RNN" recurrent_param { num_output: 5 expose_hidden: true }',
        [SEQUENCE, CONT, STATE],
        2,
    ),
    "lstm_unit": ('type: "LSTMUnit"', [(1, 3, 4), (1, 3, 16), (1, 3)], 2),
    "prior_box": (
        'type: "PriorBox" prior_box_param { min_size: 30 max_size: 60 aspect_ratio: 2 flip: true '
        "variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 clip: true }",
        [(2, 4, 3, 5), (2, 3, 90, 130)],
        1,
    ),
    "prior_box_given": (
        'type: "PriorBox" prior_box_param { min_size: 9 min_size: 20 step: 8 offset: 0.3 '
        "img_h: 40 img_w: 60 }",
        [(2, 4, 3, 5), (2, 3, 90, 130)],
        1,
    ),
    "detection": (
        f'type: "DetectionOutput" detection_output_param {{ {DETECTION} keep_top_k: 5 '
        "code_type: CENTER_SIZE }",
        PRIORS,
        1,
    ),
    "detection_each_class": (
        f'type: "DetectionOutput" detection_output_param {{ {DETECTION} code_type: CORNER_SIZE '
        "share_location: false background_label_id: 1 variance_encoded_in_target: true }",
        [(2, 144), (2, 36), (1, 2, 48), (2, 3, 9, 9)],
        1,
    ),
    "detection_lowered": (
        'type: "DetectionOutput" detection_output_param { num_classes: 3 code_type: CORNER '
        "nms_param { nms_threshold: 0.9 eta: 0.8 } }",
        PRIORS,
        1,
    ),
    "detection_nothing": (
        'type: "DetectionOutput" detection_output_param { num_classes: 3 '
        "confidence_threshold: 1.5 }",
        PRIORS,
        1,
    ),
    "roi_pooling": (
        'type: "ROIPooling" roi_pooling_param { pooled_h: 3 pooled_w: 2 spatial_scale: 0.5 }',
        [PLANE, (11, 5, 1, 1)],
        1,
    ),
    "psroi_pooling": (
        'type: "PSROIPooling" psroi_pooling_param { output_dim: 1 group_size: 2 '
        "spatial_scale: 0.5 }",
        [PLANE, (11, 5)],
        1,
    ),
}

# What bottoms hold where any number will not do.
KINDS = {
    "embed": ["index"],
    "embed_plain": ["index"],
    "upsample": ["any", "mask"],
    "arg_max": ["equals"],
    "arg_max_values": ["equals"],
    "arg_max_axis": ["equals"],
    "batch_reindex": ["any", "sample"],
    "filter": ["any", "any", "cont"],
    "lstm": ["any", "cont"],
    "lstm_wide": ["any", "cont"],
    "lstm_exposed": ["any", "cont"],
    "rnn": ["any", "cont"],
    "rnn_exposed": ["any", "cont"],
    "lstm_unit": ["any", "any", "cont"],
    "detection": ["any", "scores", "priors"],
    "detection_each_class": ["any", "scores", "priors"],
    "detection_lowered": ["any", "scores", "priors"],
    "detection_nothing": ["any", "scores", "priors"],
    "roi_pooling": ["any", "regions"],
    "psroi_pooling": ["any", "regions"],
}

# Its parameters are as large as the batch.
ONE_BATCH = {"scale_given"}

REGIONS = [
    [0, 0, 0, 10, 7],  # the whole plane
    [1, 4, 2, 14, 10],
    [1, 3, 3, 3, 3],  # one position
    [0, 6, 6, 2, 2],  # the wrong way round
    [1, -5, -4, 3, 2],  # begins outside
    [0, 8, 6, 30, 20],  # ends outside
    [1, 40, 40, 50, 50],  # all outside
    [0, 2.5, 0.5, 6.5, 4.49],  # halves
    [1, -0.5, -1.5, 3.5, 2.5],
    [0, 1, 1, 12, 3],
    [1, 5, 0, 6, 13],
]


def bottom(kind: str, shape: tuple[int, ...]) -> Tensor:
    """Draw a bottom."""
    if kind == "index":
        return torch.randint(0, 7, shape).float()
    if kind == "sample":
        return torch.randint(0, 3, shape).float()
    if kind == "equals":
        return torch.randint(-2, 3, shape).float()
    if kind == "cont":
        return (torch.randn(shape) > -0.3).float()
    if kind == "mask":  # of 6 x 7 positions
        indices = [torch.randperm(42)[: shape[2] * shape[3]] for _ in range(shape[0] * shape[1])]
        return torch.stack(indices).reshape(shape).float()
    if kind == "scores":
        return torch.randn(shape).reshape(len(shape), -1, 3).mul(2).softmax(2).reshape(shape)
    if kind == "priors":
        low = torch.rand(12, 2) * 0.5
        boxes = torch.cat([low, low + 0.2 + 0.3 * torch.rand(12, 2)], dim=1)
        return torch.stack([boxes, torch.full((12, 4), 0.1)]).reshape(shape)
    if kind == "regions":
        return torch.tensor(REGIONS).reshape(shape)
    return torch.randn(shape)


def grown(shapes: Shapes) -> Shapes:
    """Return the shapes of a batch with one sample, or timestep, more."""
    first = shapes[0][0] if shapes else 0
    return [(s[0] + 1, *s[1:]) if s[0] == first else s for s in shapes]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    result = Written(tmp_path_factory.mktemp("written"))
    for name, (body, shapes, tops) in CASES.items():
        net = randomized(layer_net(body, *shapes, tops=tops, phase=1))
        kinds = [*KINDS.get(name, []), *["any"] * len(shapes)]
        batches = [shapes] if name in ONE_BATCH else [shapes, grown(shapes)]
        calls = [list(map(bottom, kinds, batch)) for batch in batches]
        result.add(name, net, calls)
    result.run()
    return result


@pytest.mark.parametrize("name", CASES)
def test_layer_as_code_has_the_outputs_of_the_layer(name: str, written: Written) -> None:
    written.check(name)


def test_every_emitter_has_a_case_and_a_layer_type() -> None:
    tested = {body.split('"')[1] for body, _, _ in CASES.values()}
    assert set(EMITTERS) == tested
    assert set(EMITTERS) <= set(layer_types())


def test_every_type_of_a_deployed_net_has_an_emitter_or_a_reason() -> None:
    deployed = {
        name
        for name, kind in layer_types().items()
        if kind.__module__.startswith("caffe_kd.")
        and not is_left_out(kind)
        and not becomes_input(kind)
    }
    refused = {name for name in deployed if layer_types()[name].no_torch}
    assert deployed == {*EMITTERS, *refused}


def test_helper_classes_need_what_the_head_imports_alone(written: Written) -> None:
    for path in sorted(Path(written.folder).glob("*.py")):
        assert "caffe_kd." not in path.read_text().split("class ", 1)[1]
