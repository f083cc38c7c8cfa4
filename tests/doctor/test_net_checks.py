"""Each check of a net: a file that it speaks of, and one that it is silent on."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_kd.layers import Layer, base, register
from tests.doctor.examining import (
    FREEZE,
    INPUT,
    IP,
    LOSS,
    NET,
    SOLVER,
    assert_distinguishes,
    found,
    of,
    to_loss,
    with_layer,
    write,
)

DATA = """layer { name: "d" type: "Data" top: "data" top: "label" RULE
  transform_param { TRANSFORM } data_param { source: "SOURCE" batch_size: 4 backend: LMDB } }
"""


def data(rule="", transform="crop_size: 9 scale: 0.01", source="db"):
    rules = f"include {{ phase: {rule} }}" if rule else ""
    filled = DATA.replace("RULE", rules).replace("TRANSFORM", transform)
    return filled.replace("SOURCE", source)


def both(train="crop_size: 9 scale: 0.01", test="crop_size: 9 scale: 0.01", sources=("a", "b")):
    accuracy = """layer { name: "acc" type: "Accuracy" bottom: "ip" bottom: "label" top: "acc"
      include { phase: TEST } }"""
    layers = data("TRAIN", train, sources[0]) + data("TEST", test, sources[1])
    return f'name: "n" {layers}{IP}{LOSS}{accuracy}'


def ranges(train, test):
    before, middle, after = both(sources=("a", "a")).split('source: "a"')
    return f'{before}source: "a" {train}{middle}source: "a" {test}{after}'


def pooling(rest):
    return f'name: "n"\n{INPUT}{of("Pooling", f"pooling_param {{ {rest} }}")}'


EUCLIDEAN = (
    INPUT
    + of("Convolution", "convolution_param { num_output: 3 kernel_size: 1 }")
    + 'layer { name: "e" type: "EuclideanLoss" bottom: "y" bottom: "data" top: "e" REST }'
)
BATCH_NORM = of("BatchNorm", "PARAM", top="ip", bottom="ip")
SCALE = 'layer { name: "s" type: "Scale" bottom: "ip" top: "ip" }\n'
# Check, severity, words of the finding, a file with it and one without.
CASES = [
    (
        "cannot_be_built",
        "error",
        "Unknown bottom blob 'x'",
        NET.replace('bottom: "data"', 'bottom: "x"'),
        NET,
    ),
    (
        "cannot_be_built",
        "error",
        "Unknown layer type: 'Covnolution'",
        with_layer(of("Covnolution", "")),
        NET,
    ),
    (
        "cannot_be_built",
        "error",
        "net 'n' has no layers",
        'name: "n" layer { include { phase: TEST not_stage: "x" stage: "x" } }',
        NET,
    ),
    ("data_absent", "warning", "Assumed: 3 x 9 x 9", f"{data()}{IP}{LOSS}", NET),
    (
        "python_layer",
        "note",
        "m.P is not run",
        with_layer(of("Python", 'python_param { module: "m" layer: "P" }')),
        NET,
    ),
    ("unused_blob", "note", "no layer takes its top 'y'", with_layer(of("ReLU", "")), NET),
    (
        "unused_blob",
        "note",
        "no layer takes its top 'y'",
        with_layer(of("ReLU", "")),
        with_layer(of("ReLU", "") + 'layer { name: "q" type: "Silence" bottom: "y" }\n'),
    ),
    (
        "zero_loss_weight",
        "warning",
        "loss_weight is 0",
        NET.replace('top: "loss"', 'top: "loss" loss_weight: 0'),
        NET,
    ),
    (
        "accuracy_in_train",
        "note",
        "runs in TRAIN",
        with_layer('layer { name: "a" type: "Accuracy" bottom: "ip" bottom: "label" top: "a" }\n'),
        both(),
    ),
    (
        "softmax_twice",
        "warning",
        "is the softmax of layer 'l'",
        to_loss(of("Softmax", "", bottom="ip"), "y"),
        NET,
    ),
    (
        "softmax_twice",
        "warning",
        "is the softmax of layer 'l'",
        to_loss(of("Softmax", "", bottom="ip") + of("Flatten", "", top="z", bottom="y"), "z"),
        with_layer(of("Softmax", "", bottom="ip")),
    ),
    (
        "same_data_in_both_phases",
        "warning",
        "TEST reads 'a', as TRAIN does",
        both(sources=("a", "a")),
        both(),
    ),
    (
        "same_data_in_both_phases",
        "warning",
        "TEST reads 'a', as TRAIN does",
        both(sources=("a", "a")),
        f"{data()}{IP}{LOSS}",
    ),
    (
        "same_data_in_both_phases",
        "warning",
        "TEST reads 'a', as TRAIN does",
        ranges("count: 6", "first: 5"),
        ranges("count: 5", "first: 5"),
    ),
    (
        "transforms_differ",
        "warning",
        "scale is 1 in TEST, in TRAIN 0.01",
        both(test="crop_size: 9"),
        both(),
    ),
    (
        "transforms_differ",
        "warning",
        "mean_value is 3 in TEST, in TRAIN none",
        both(test="crop_size: 9 scale: 0.01 mean_value: 3"),
        both(),
    ),
    (
        "same_layer_name",
        "warning",
        "has the name of",
        to_loss(IP.replace('bottom: "data" top: "ip"', 'bottom: "ip" top: "z"'), "z"),
        NET,
    ),
    (
        "dropout_ratio",
        "warning",
        "dropout_ratio is 0.95",
        f"{INPUT}{of('Dropout', 'dropout_param { dropout_ratio: 0.95 }', top='data')}{IP}{LOSS}",
        f"{INPUT}{of('Dropout', '', top='data')}{IP}{LOSS}",
    ),
    (
        "dropout_ratio",
        "note",
        "dropout_ratio is 0",
        f"{INPUT}{of('Dropout', 'dropout_param { dropout_ratio: 0 }', top='data')}{IP}{LOSS}",
        NET,
    ),
    (
        "dropout_on_scores",
        "warning",
        "its top goes to layer 'loss'",
        with_layer(of("Dropout", "", top="ip", bottom="ip")),
        f"{INPUT}{of('Dropout', '', top='data')}{IP}{LOSS}",
    ),
    (
        "batch_norm_without_scale",
        "note",
        "no Scale layer follows",
        with_layer(BATCH_NORM.replace("PARAM", "")),
        with_layer(BATCH_NORM.replace("PARAM", "") + SCALE),
    ),
    (
        "never_included",
        "note",
        "layer 'l' (ReLU) is in no phase: only in stage 'never' (-stage never)",
        with_layer(of("ReLU", 'include { stage: "never" }')),
        NET,
    ),
    (
        "part_of_a_net",
        "note",
        "net '' has neither data nor inputs",
        'layer { name: "kd" type: "DistillingLoss" bottom: "ip" bottom: "teacher/ip" }',
        NET,
    ),
    (
        "ceil_pooling",
        "note",
        "9 x 9 becomes 5 x 5; rounding down gives 4 x 4",
        pooling("kernel_size: 2 stride: 2"),
        pooling("kernel_size: 3 stride: 2"),
    ),
    (
        "ceil_pooling",
        "note",
        "pool: AVE; windows at the far edge",
        pooling("pool: AVE kernel_size: 2 stride: 2"),
        pooling("kernel_size: 2 stride: 2 round_mode: FLOOR"),
    ),
    ("ties", "note", "the highest index wins", with_layer(of("ArgMax", "", bottom="ip")), NET),
    (
        "ties",
        "warning",
        "its scores come from layer 'l' (ReLU)",
        with_layer(
            of("ReLU", "", top="ip", bottom="ip")
            + 'layer { name: "a" type: "Accuracy" bottom: "ip" bottom: "label" top: "a" }\n'
        ),
        both(),
    ),
    (
        "ties",
        "note",
        "one bottom gets the gradient",
        with_layer(of("Eltwise", 'bottom: "data" eltwise_param { operation: MAX }')),
        with_layer(of("Eltwise", 'bottom: "data"')),
    ),
    (
        "mirror_in_test",
        "warning",
        "mirror: true in TEST",
        both(test="crop_size: 9 scale: 0.01 mirror: true"),
        both(train="crop_size: 9 scale: 0.01 mirror: true"),
    ),
    (
        "rand_skip",
        "note",
        "rand_skip: 7 has no effect",
        both().replace("batch_size: 4", "batch_size: 4 rand_skip: 7"),
        both(),
    ),
    (
        "raw_pixels",
        "note",
        "neither scale nor mean",
        f"{data(transform='crop_size: 9')}{IP}{LOSS}",
        f"{data()}{IP}{LOSS}",
    ),
    (
        "batch_statistics_in_test",
        "warning",
        "use_global_stats: false in TEST",
        with_layer(BATCH_NORM.replace("PARAM", "batch_norm_param { use_global_stats: false }")),
        with_layer(BATCH_NORM.replace("PARAM", "")),
    ),
    (
        "stored_statistics_in_train",
        "note",
        "use_global_stats: true in TRAIN",
        with_layer(BATCH_NORM.replace("PARAM", "batch_norm_param { use_global_stats: true }")),
        with_layer(BATCH_NORM.replace("PARAM", "")),
    ),
    (
        "few_values_for_statistics",
        "warning",
        "4 value(s) per channel",
        with_layer(BATCH_NORM.replace("PARAM", "")),
        with_layer(BATCH_NORM.replace("PARAM", "batch_norm_param { use_global_stats: true }")),
    ),
    (
        "loss_over_many_values",
        "note",
        "sums over 243 values",
        EUCLIDEAN.replace("REST", ""),
        EUCLIDEAN.replace("REST", "loss_weight: 0.001"),
    ),
    (
        "zero_weights",
        "warning",
        "is constant 0",
        with_layer(
            of("InnerProduct", "inner_product_param { num_output: 5 }", top="z", bottom="ip")
        ),
        NET,
    ),
    (
        "zero_weights",
        "note",
        "none of its 2 layers with weights has a filler",
        with_layer(
            of("InnerProduct", "inner_product_param { num_output: 5 }", top="z", bottom="ip")
        ).replace('weight_filler { type: "xavier" }', ""),
        NET,
    ),
    (
        "gaussian_without_std",
        "warning",
        'weight_filler "gaussian" has no std',
        NET.replace("xavier", "gaussian"),
        NET.replace('"xavier"', '"gaussian" std: 0.01'),
    ),
    (
        "frozen_at_random",
        "note",
        "lr_mult is 0 and no weights are named",
        NET.replace("inner_product_param", f"{FREEZE} inner_product_param"),
        NET,
    ),
    (
        "nothing_learns",
        "warning",
        "every lr_mult is 0",
        NET.replace("inner_product_param", f"{FREEZE} inner_product_param"),
        NET,
    ),
    (
        "multipliers_reversed",
        "warning",
        "lr_mult is 2 for the weights and 1 for the bias",
        NET.replace(
            "inner_product_param", "param { lr_mult: 2 } param { lr_mult: 1 } inner_product_param"
        ),
        NET.replace(
            "inner_product_param", "param { lr_mult: 1 } param { lr_mult: 2 } inner_product_param"
        ),
    ),
    (
        "multipliers_reversed",
        "warning",
        "decay_mult is 0 for the weights and 1 for the bias",
        NET.replace(
            "inner_product_param",
            "param { decay_mult: 0 } param { lr_mult: 2 } inner_product_param",
        ),
        NET,
    ),
    (
        "negative_multiplier",
        "warning",
        "lr_mult of param 0 is -1",
        NET.replace("inner_product_param", "param { lr_mult: -1 } inner_product_param"),
        NET,
    ),
    (
        "frozen_but_training",
        "warning",
        "is in phase TRAIN; the layers before it have lr_mult 0",
        to_loss(
            of("Dropout", "", top="ip", bottom="ip")
            + of(
                "InnerProduct",
                "inner_product_param { num_output: 5 weight_filler { type: 'xavier' } }",
                bottom="ip",
            ),
            "y",
        ).replace("inner_product_param", f"{FREEZE} inner_product_param", 1),
        to_loss(
            of("Dropout", "phase: TEST", top="ip", bottom="ip")
            + of(
                "InnerProduct",
                "inner_product_param { num_output: 5 weight_filler { type: 'xavier' } }",
                bottom="ip",
            ),
            "y",
        ).replace("inner_product_param", f"{FREEZE} inner_product_param", 1),
    ),
    (
        "without_onnx_form",
        "warning",
        "a window lies outside the plane",
        pooling("pool: AVE kernel_size: 1 stride: 2").replace("dim: 9 dim: 9", "dim: 2 dim: 2"),
        NET,
    ),
]


@pytest.mark.parametrize(("check", "severity", "words", "bad", "good"), CASES)
def test_check_speaks_of_one_net_and_is_silent_on_another(
    tmp_path: Path, check: str, severity: str, words: str, bad: str, good: str
) -> None:
    assert_distinguishes(tmp_path, check, severity, words, bad, good)


def test_state_that_overrides_the_phase(tmp_path: Path) -> None:
    stated = f"state {{ phase: TEST }} {NET}"
    path = write(tmp_path, solver=SOLVER, net=stated)
    assert found(path, "state_overrides_phase") == [
        ("warning", "the net's own state has phase: TEST")
    ]
    assert found(write(tmp_path, solver=SOLVER, net=NET), "state_overrides_phase") == []


def test_layer_type_of_a_user_without_onnx_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))

    @register("Doubled")
    class Doubled(Layer):
        def forward(self, x):
            return 2 * x

    path = write(tmp_path, net=with_layer(of("Doubled", "")))
    ((severity, what),) = found(path, "without_onnx_form")
    assert severity == "note"
    assert "is exported by torch.onnx" in what
    path = write(tmp_path, net=with_layer(of("Pooling", "pooling_param { kernel_size: 3 }")))
    assert found(path, "without_onnx_form") == []


def test_old_format_is_reported_with_its_year_and_problems(tmp_path: Path) -> None:
    old = """layers { name: "ip" type: INNER_PRODUCT bottom: "data" top: "ip"
      inner_product_param { num_output: 2 } } input: "data" input_dim: 1 input_dim: 2
      input_dim: 1 input_dim: 1"""
    (occurrence,) = found(write(tmp_path, old=old), "old_format")
    assert occurrence == ("note", "written with V1LayerParameter")
    assert found(write(tmp_path, new=NET), "old_format") == []


def test_labels_of_an_assumed_shape_make_no_error(tmp_path: Path) -> None:
    """A list may give several labels for an image, which the prototxt does not say."""
    net = f"""{
        data()
        .replace("Data", "ImageData", 1)
        .replace("data_param", "image_data_param")
        .replace("backend: LMDB", "")
    }{IP}
      layer {{ name: "s" type: "SigmoidCrossEntropyLoss" bottom: "ip" bottom: "label" }}"""
    ((severity, what),) = found(write(tmp_path, n=net), "cannot_be_built")
    assert severity == "warning"
    assert "only assumed" in what
