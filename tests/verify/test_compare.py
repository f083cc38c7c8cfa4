"""Comparing a net's blobs with recorded ones, and finding out why they differ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from caffe_kd.core.errors import DataError, NetError, WeightsError
from caffe_kd.net import Net, load_net
from caffe_kd.proto.binary import write_weights
from caffe_kd.verify.compare import build, compare, input_names, inputs_of, random_inputs, record
from caffe_kd.verify.hints import hints
from caffe_kd.verify.recording import Arrays, read_recording

SHARED = Path(__file__).parents[3] / "shared"
NET = """name: "n"
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 9 dim: 9 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 2 weight_filler { type: "xavier" }
    bias_filler { type: "gaussian" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { POOL } }
layer { name: "lrn" type: "LRN" bottom: "pool" top: "lrn" lrn_param { local_size: 3 alpha: 2 } }
layer { name: "drop" type: "Dropout" bottom: "lrn" top: "lrn" dropout_param { dropout_ratio: 0.3 } }
layer { name: "ip" type: "InnerProduct" bottom: "lrn" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" }
    bias_filler { type: "gaussian" } } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""
POOL = "kernel_size: 3 stride: 2 pool: AVE"
LABELLED = """name: "n"
layer { name: "d" type: "Data" top: "data" top: "label" data_param { source: "none" } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., tuple[Net, Arrays]]:
    """Give a net with weights and its recording."""

    def make(pool: str = POOL) -> tuple[Net, Arrays]:
        torch.manual_seed(0)
        path = tmp_path / "net.prototxt"
        path.write_text(NET.replace("POOL", pool))
        net = load_net(path)
        mean, var, factor = net.node_of("bn").layer.blobs
        mean.copy_(torch.rand(4))
        var.copy_(torch.rand(4) + 0.5)
        factor.fill_(2)
        write_weights(tmp_path / "w.caffemodel", net.param, net.weights())
        inputs = random_inputs(path)
        net, notes = build(path, [str(tmp_path / "w.caffemodel")], inputs)
        assert notes == []
        return net, record(net, inputs)

    return make


def hints_of(net: Net, recording: Arrays, inputs: Arrays | None = None) -> list[str]:
    comparison = compare(net, recording, inputs or inputs_of(recording))
    return hints(net, comparison)


def test_recording_holds_inputs_and_each_value_by_its_name(model) -> None:
    net, recording = model()
    assert list(recording) == [
        "in/data", "out/conv/conv", "out/conv/bn", "out/conv", "out/pool", "out/lrn/lrn",
        "out/lrn", "out/ip", "out/prob",
    ]  # fmt: skip
    assert recording["out/conv/conv"].min() < 0 <= recording["out/conv"].min()
    comparison = compare(net, recording, inputs_of(recording))
    assert comparison.first is None
    assert [line.key for line in comparison.lines] == [key[4:] for key in list(recording)[1:]]
    assert all(line.difference == 0 for line in comparison.lines)
    assert hints(net, comparison) == []


def test_first_difference_is_that_of_the_first_layer(model) -> None:
    net, recording = model()
    for key in ("out/prob", "out/pool", "out/ip"):
        recording[key] = recording[key] + 1
    comparison = compare(net, recording, inputs_of(recording))
    assert comparison.first.key == "pool"
    assert comparison.first.node.layer.name == "pool"
    assert [line.key for line in comparison.lines if not line.agrees] == ["pool", "ip", "prob"]


def test_bounds_go_by_the_blobs_greatest_value(model) -> None:
    net, recording = model()
    scale = np.abs(recording["out/ip"]).max()
    recording["out/ip"] = recording["out/ip"] + np.float32(0.01 * scale)
    given = inputs_of(recording)
    assert compare(net, recording, given).first.key == "ip"
    assert compare(net, recording, given, rtol=0.02).first is None
    assert compare(net, recording, given, rtol=0, atol=0.02 * scale).first is None


def test_nan_agrees_with_itself_alone(model) -> None:
    net, recording = model()
    recording["out/prob"][0, 0] = np.nan
    comparison = compare(net, recording, inputs_of(recording))
    assert comparison.first.key == "prob"
    assert "the recording has NaN or infinity" in hints(net, comparison)[1]


def test_plain_names_and_logits_are_known(model) -> None:
    net, recording = model()
    plain = {"data": recording["in/data"], "pool": recording["out/pool"]}
    plain["logits"] = recording["out/ip"]
    inputs = inputs_of(plain, ["data"])
    assert [line.key for line in compare(net, plain, inputs).lines] == ["pool", "ip"]


def test_keys_that_name_no_blob_are_reported(model) -> None:
    net, recording = model()
    recording |= {"out/pol": recording["out/pool"]}
    notes = compare(net, recording, inputs_of(recording)).notes
    assert notes == ["no blob of the net is recorded as 'out/pol' Did you mean 'pool'?"]
    with pytest.raises(DataError, match=r"no value to compare. Received: x. Expected: .*conv/conv"):
        compare(net, {"x": np.zeros(3)}, inputs_of(recording))


def test_value_before_an_unrecorded_one_is_not_accused(model) -> None:
    net, recording = model()
    last = {"in/data": recording["in/data"], "prob": recording["out/prob"] + 1}
    assert hints_of(net, last)[0] == (
        "its bottom 'ip' was not recorded: a layer before it may be the one that differs"
    )
    recording["out/prob"] = recording["out/prob"] + 1
    assert hints_of(net, recording)[0] == (
        "its bottoms agree: it is this layer, its settings or its weights"
    )


# ---- why


def changed(recording: Arrays, key: str, value: torch.Tensor) -> Arrays:
    return {**recording, key: value.detach().numpy()}


def conv_of(net: Net, x: torch.Tensor, turned: bool = False, biased: bool = True) -> torch.Tensor:
    weight, bias = net.node_of("conv").layer.blobs
    return F.conv2d(x, weight.flip(2, 3) if turned else weight, bias if biased else None)


def ip_of(net: Net, x: torch.Tensor, transposed: bool = False) -> torch.Tensor:
    weight, bias = net.node_of("ip").layer.blobs
    return F.linear(x, weight.reshape(weight.shape[::-1]).t() if transposed else weight, bias)


def bn_of(net: Net, x: torch.Tensor, factor: float, eps: float = 1e-5) -> torch.Tensor:
    mean, var, _ = net.node_of("bn").layer.blobs
    return F.batch_norm(x, mean / factor, var / factor, eps=eps)


# The key, what another program gave, and words that explain it.
REASONS = [
    ("conv/conv", lambda n, x, b: conv_of(n, x.flip(1)), "colours in the other order"),
    ("conv/conv", lambda n, x, b: conv_of(n, x / 256), "with the input times 0.00390625"),
    ("conv/conv", lambda n, x, b: conv_of(n, x, turned=True), "kernels turned round"),
    ("conv/conv", lambda n, x, b: conv_of(n, x, biased=False), "without its bias it agrees"),
    ("conv/conv", lambda n, x, b: conv_of(n, x - 0.3), "off by a constant each: another bias, or"),
    (
        "conv/bn",
        lambda n, x, b: F.batch_norm(b["conv/conv"], None, None, training=True),
        "with the batch's own statistics",
    ),
    ("conv/bn", lambda n, x, b: bn_of(n, b["conv/conv"], 1), "the scale factor, blob 2, 2 here"),
    ("conv/bn", lambda n, x, b: bn_of(n, b["conv/conv"], 2, 1e-3), "with an eps of 0.001"),
    ("conv", lambda n, x, b: b["conv/bn"], "the recording is of the value before the layer"),
    ("conv", lambda n, x, b: F.leaky_relu(b["conv/bn"], 0.1), "with a negative_slope of 0.1"),
    ("pool", lambda n, x, b: F.max_pool2d(b["conv"], 3, 2, ceil_mode=True), "greatest value"),
    (
        "lrn/lrn",
        lambda n, x, b: F.local_response_norm(b["pool"], 3, 6.0, 0.75, 1.0),
        "alpha not divided by local_size",
    ),
    ("lrn", lambda n, x, b: b["lrn/lrn"] * 0.7, "the recording scales in TEST"),
    (
        "lrn",
        lambda n, x, b: F.dropout(b["lrn/lrn"], 0.3),
        "values are dropped at random: the recording was made in phase TRAIN",
    ),
    ("ip", lambda n, x, b: ip_of(n, b["lrn"].flatten(1), True), "with its weights transposed"),
    (
        "ip",
        lambda n, x, b: ip_of(n, b["lrn"].permute(0, 2, 3, 1).flatten(1)),
        "flattened channels last",
    ),
    ("prob", lambda n, x, b: b["ip"].log_softmax(1), "as the softmax's logarithm"),
    ("prob", lambda n, x, b: b["ip"].softmax(0), "along axis 0 it agrees; here it is 1"),
]


@pytest.mark.parametrize(("key", "other", "words"), REASONS)
def test_difference_is_explained_where_the_explanation_holds(model, key, other, words) -> None:
    net, recording = model()
    blobs = {k.removeprefix("out/"): torch.from_numpy(v) for k, v in recording.items()}
    x = torch.from_numpy(recording["in/data"])
    given = changed(recording, f"out/{key}", other(net, x, blobs))
    comparison = compare(net, given, inputs_of(given))
    assert comparison.first.key == key
    assert any(words in hint for hint in hints(net, comparison)), hints(net, comparison)


def test_padding_that_is_not_counted_is_found(model) -> None:
    net, recording = model("kernel_size: 3 stride: 2 pad: 1 pool: AVE")
    x = torch.from_numpy(recording["out/conv"])
    mean = F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False)
    assert "leaves the padding out" in hints_of(net, changed(recording, "out/pool", mean))[1]


def test_size_that_is_rounded_down_is_found(model) -> None:
    net, recording = model()
    down = torch.from_numpy(recording["out/conv"])[:, :, :3, :3]
    given = changed(recording, "out/pool", down)
    comparison = compare(net, given, inputs_of(given))
    assert comparison.first.verdict == "shape differs: recorded 2x4x3x3"
    assert "rounds the number of windows down" in hints(net, comparison)[1]


@pytest.mark.parametrize("key", ["conv/conv", "conv/bn", "conv", "pool", "lrn", "ip", "prob"])
def test_noise_is_not_explained(model, key) -> None:
    """A hint is given only where it explains what was recorded."""
    net, recording = model()
    value = recording[f"out/{key}"]
    noise = np.random.default_rng(1).standard_normal(value.shape, dtype=np.float32)
    recording[f"out/{key}"] = value + noise
    assert len(hints_of(net, recording)) == 1


def test_output_alone_gives_hints_about_the_preprocessing(model) -> None:
    net, recording = model()
    wrong = {"data": recording["in/data"][:, ::-1].copy()}
    last = {"prob": recording["out/prob"]}
    assert "colours in the other order" in hints_of(net, last, wrong)[1]
    wrong = {"data": recording["in/data"] * np.float32(255)}
    assert "with the input times 0.00392157 it agrees" in hints_of(net, last, wrong)[1]


# ---- building


def labelled(folder: Path) -> tuple[Path, str]:
    path = folder / "n.prototxt"
    path.write_text(LABELLED)
    inputs = {"data": np.zeros((2, 3), np.float32), "label": np.zeros(2, np.float32)}
    plain = LABELLED.replace(
        'type: "Data"', 'type: "Input" input_param { shape { dim: 2 dim: 3 } shape { dim: 2 } }'
    ).replace('data_param { source: "none" }', "")
    (folder / "built.prototxt").write_text(plain)
    net = load_net(folder / "built.prototxt")
    write_weights(folder / "w.caffemodel", net.param, net.weights())
    assert input_names(path) == list(inputs)
    return path, str(folder / "w.caffemodel")


def test_data_layer_gives_way_to_recorded_inputs(tmp_path: Path) -> None:
    path, weights = labelled(tmp_path)
    inputs = {"data": np.ones((4, 3), np.uint8), "label": np.array([0, 1, 2, 3])}
    net, notes = build(path, [weights], inputs)
    assert (notes, net.shapes["ip"], sorted(net.shapes)) == (
        [],
        (4, 5),
        ["data", "ip", "label", "loss"],
    )
    recording = record(net, inputs)
    assert compare(net, recording, inputs).first is None
    recording["out/loss"] = recording["out/loss"].reshape(1)  # as old nets have it
    assert compare(net, recording, inputs).first is None


def test_layers_whose_input_is_missing_are_left_out(tmp_path: Path) -> None:
    path, weights = labelled(tmp_path)
    net, notes = build(path, [weights], {"data": np.ones((4, 3), np.float32)})
    assert notes == ["layer 'loss' (SoftmaxWithLoss) is left out: it needs 'label'"]
    assert list(net.shapes) == ["data", "ip"]


def test_no_input_at_all_is_an_error(tmp_path: Path) -> None:
    path, weights = labelled(tmp_path)
    with pytest.raises(NetError, match="no input is given: the recording has none of in/data"):
        build(path, [weights], {"x": np.zeros(2)})
    with pytest.raises(NetError, match=r"layer 'd' \(Data\) reads data: .* as in/data, with -in"):
        random_inputs(path)


def test_weights_are_needed_and_must_fit(tmp_path: Path) -> None:
    path, weights = labelled(tmp_path)
    with pytest.raises(WeightsError, match="has parameters in 1 layers: give their weights"):
        build(path, [], {"data": np.zeros((2, 3))})
    with pytest.raises(WeightsError, match="shape mismatch"):
        build(path, [weights], {"data": np.zeros((2, 4))})


def test_input_of_other_channels_is_reported(tmp_path: Path) -> None:
    (tmp_path / "n.prototxt").write_text(NET.replace("POOL", POOL))
    for shape in [(2, 1, 9, 9), (2, 3)]:
        with pytest.raises(NetError, match=r"the recorded 'data' does not fit. Received: 2x"):
            build(tmp_path / "n.prototxt", [], {"data": np.zeros(shape)})


MODELS = sorted(SHARED.glob("models/*/*.npz"))


@pytest.mark.parametrize("path", MODELS or [None], ids=lambda p: p.stem if p else "none")
def test_models_of_many_authors_agree_with_caffe(path: Path | None) -> None:
    if path is None:
        pytest.skip("../shared/models, weights and recordings of public models, is absent")
    recording = read_recording(path)
    if "logits" in recording:
        pytest.skip("its inputs are MNIST's files, not in the recording")
    prototxt = path.with_name(path.stem.split("_iter_")[0] + ".prototxt")
    inputs = inputs_of(recording)
    net, _ = build(prototxt, [str(path.with_suffix(".caffemodel"))], inputs)
    comparison = compare(net, recording, inputs)
    assert comparison.first is None
    assert len(comparison.lines) == sum(key.startswith("out/") for key in recording)
