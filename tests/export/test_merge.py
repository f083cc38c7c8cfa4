"""Nets with fewer layers and the same outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_kd.cli.merge_layers import main
from caffe_kd.core.errors import WeightsError
from caffe_kd.export.merge import merge
from caffe_kd.net import load_net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.binary import read_weights, write_weights
from tests.helpers import inputs_text, make_net

# float32 products of other factors
TOLERANCE = 2e-5

BN = 'layer { name: "%s_bn" type: "BatchNorm" bottom: "%s" top: "%s" }\n'
SCALE = (
    'layer { name: "%s_scale" type: "Scale" bottom: "%s" top: "%s" '
    "scale_param { bias_term: true } }\n"
)


def conv(name: str, bottom: str, more: str = "") -> str:
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" '
        f'convolution_param {{ num_output: 4 kernel_size: 3 weight_filler {{ type: "msra" }} '
        f"{more} }} }}\n"
    )


def ip(name: str, bottom: str, more: str = "") -> str:
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" '
        f'inner_product_param {{ num_output: 5 weight_filler {{ type: "msra" }} {more} }} }}\n'
    )


def in_place(layer: str, name: str) -> str:
    return layer % (name, name, name)


NETS = {
    "in place": conv("c", "x0") + in_place(BN, "c") + in_place(SCALE, "c"),
    "not in place": conv("c", "x0") + BN % ("c", "c", "b") + SCALE % ("c", "b", "s"),
    "no bias": conv("c", "x0", "bias_term: false") + in_place(BN, "c") + in_place(SCALE, "c"),
    "norm alone": conv("c", "x0") + in_place(BN, "c"),
    "scale alone": conv("c", "x0", "group: 2") + in_place(SCALE, "c"),
    "inner product": ip("i", "x0") + in_place(BN, "i") + in_place(SCALE, "i"),
    "transposed": ip("i", "x0", "transpose: true") + in_place(BN, "i") + in_place(SCALE, "i"),
    "deep": conv("c", "x0")
    + in_place(BN, "c")
    + in_place(SCALE, "c")
    + 'layer { name: "r" type: "ReLU" bottom: "c" top: "c" }'
    + conv("d", "c")
    + in_place(BN, "d")
    + ip("i", "d")
    + in_place(SCALE, "i"),
}
# Where a layer has to stay, and how many go all the same.
KEPT = {
    "wanted before": (
        conv("c", "x0") + BN % ("c", "c", "b") + conv("d", "c") + in_place(SCALE, "d"),
        1,
    ),
    "after an activation": (
        conv("c", "x0")
        + 'layer { name: "r" type: "ReLU" bottom: "c" top: "c" }'
        + in_place(BN, "c"),
        0,
    ),
    "shared": (
        conv("c", "x0").replace("convolution_param", 'param { name: "w" } convolution_param')
        + in_place(BN, "c"),
        0,
    ),
    "by the batch": (
        conv("c", "x0")
        + in_place(BN, "c").replace("top:", "batch_norm_param { use_global_stats: false } top:"),
        0,
    ),
    "another axis": (
        conv("c", "x0")
        + in_place(SCALE, "c").replace("bias_term: true", "bias_term: true axis: 2"),
        0,
    ),
}
INPUT = inputs_text((2, 4, 8, 8))


def filled(body: str) -> tuple[str, dict[str, list[np.ndarray]]]:
    """Return a net's text and weights as training leaves them: none is 0 or 1."""
    rng = np.random.default_rng(5)
    weights = make_net(INPUT + body).weights()
    for blobs in weights.values():
        for blob in blobs:
            blob += rng.uniform(0.2, 1.5, blob.shape).astype(np.float32)
    return INPUT + body, weights


def outputs(net, weights: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    for name, blobs in weights.items():
        for blob, value in zip(net.node_of(name).layer.blobs, blobs, strict=True):
            blob.data.copy_(torch.from_numpy(value))
    torch.manual_seed(1)
    net({"x0": torch.randn(2, 4, 8, 8)})
    return {name: net.blobs[name].detach().numpy() for name in net.outputs}


def merged(folder: Path, body: str):
    content, weights = filled(body)
    param = text.parse(content, pb.NetParameter(), "net.prototxt")
    write_weights(folder / "net.caffemodel", param, weights)
    result = merge(param, read_weights(folder / "net.caffemodel"), "net.caffemodel")
    return content, weights, param, result


def assert_equal_outputs(content: str, weights: dict, result) -> None:
    wanted = outputs(make_net(content), weights)
    got = outputs(make_net(text.to_text(result.net)), result.weights)
    assert got.keys() == wanted.keys()
    for name, values in wanted.items():
        assert np.abs(got[name] - values).max() <= TOLERANCE * max(1, np.abs(values).max())


@pytest.mark.parametrize("name", NETS)
def test_merged_net_has_equal_outputs_without_its_norms(tmp_path: Path, name: str) -> None:
    content, weights, param, result = merged(tmp_path, NETS[name])
    types = [layer.type for layer in result.net.layer]
    assert not {"BatchNorm", "Scale"}.intersection(types)
    assert len(types) < len(param.layer)
    assert_equal_outputs(content, weights, result)


@pytest.mark.parametrize("name", KEPT)
def test_layer_that_cannot_be_folded_stays(tmp_path: Path, name: str) -> None:
    body, folded = KEPT[name]
    content, weights, param, result = merged(tmp_path, body)
    assert len(param.layer) - len(result.net.layer) == folded
    assert_equal_outputs(content, weights, result)


def test_untrained_norm_of_scale_0_is_folded(tmp_path: Path) -> None:
    content, weights = filled(conv("c", "x0") + in_place(BN, "c"))
    weights["c_bn"][2][:] = 0
    param = text.parse(content, pb.NetParameter(), "net.prototxt")
    write_weights(tmp_path / "net.caffemodel", param, weights)
    result = merge(param, read_weights(tmp_path / "net.caffemodel"), "net.caffemodel")
    assert_equal_outputs(content, weights, result)


def test_missing_weights_are_captured(tmp_path: Path) -> None:
    content, weights = filled(NETS["in place"])
    param = text.parse(content, pb.NetParameter(), "net.prototxt")
    write_weights(tmp_path / "net.caffemodel", param, {"c": weights["c"]})
    with pytest.raises(WeightsError, match="layer 'c_bn' .* 0 blobs in the file, where 3"):
        merge(param, read_weights(tmp_path / "net.caffemodel"), "net.caffemodel")


def test_command_writes_net_and_weights(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    content, weights = filled(NETS["deep"])
    (tmp_path / "net.prototxt").write_text(content)
    write_weights(tmp_path / "net.caffemodel", text.parse(content, pb.NetParameter(), "n"), weights)
    words = ["-model", "net.prototxt", "-weights", "net.caffemodel", "-output", "small"]
    assert main([str(tmp_path / w) if not w.startswith("-") else w for w in words]) == 0
    net = load_net(tmp_path / "small.prototxt")
    assert net.load_weights(tmp_path / "small.caffemodel").ignored == []
    wanted = outputs(make_net(content), weights)
    got = outputs(net, {})
    for name, values in wanted.items():
        assert np.abs(got[name] - values).max() <= TOLERANCE * max(1, np.abs(values).max())
    captured = capsys.readouterr()
    assert "c_scale (Scale) is part of c now" in captured.err
    assert "5 layers of 9" in captured.out
