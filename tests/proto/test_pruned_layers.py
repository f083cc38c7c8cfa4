"""Layers of forks that prune: they are the plain types, with their masks in their weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_kd.cli import upgrade_net_proto_binary
from caffe_kd.core.errors import NetError
from caffe_kd.net import Net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import pruned_layers, text
from caffe_kd.proto.binary import read_weights
from caffe_kd.proto.upgrade import Notes, upgrade_net
from tests.proto.test_renumber import a_float, block, number_field

INPUT = (
    'layer { name: "in" type: "Input" top: "x" '
    "input_param { shape { dim: 1 dim: 2 dim: 9 dim: 9 } } }\n"
)
SCHEDULE = """gamma: 0.0001 power: 1 c_rate: 4 iter_stop: 14000
    weight_mask_filler { type: "constant" value: 1 }
    bias_mask_filler { type: "constant" value: 1 }"""
AUTO = "upper_bound: 0.94 iter_stop: 30000 inter_iter: 1500"
CONV = "num_output: 2 kernel_size: 3 dilation: 2 group: 2"

rng = np.random.default_rng(0)
WEIGHT, BIAS = rng.normal(size=(2, 1, 3, 3)), rng.normal(size=2)
MASK, BIAS_MASK = rng.integers(0, 2, WEIGHT.shape), np.array([0, 1])


def layer(kind: str, settings: str, block: str = "") -> str:
    return f'layer {{ name: "l" type: "{kind}" bottom: "x" top: "y" {settings} {block} }}'


def upgraded(prototxt: str, lines: list[str] | None = None):
    notes = Notes([] if lines is None else lines)
    return upgrade_net(text.parse(prototxt, pb.NetParameter(), "net.prototxt"), "n", notes)


@pytest.mark.parametrize("own", [SCHEDULE, AUTO, ""])
@pytest.mark.parametrize(
    ("kind", "plain", "settings", "name"),
    [
        ("CConvolution", "Convolution", f"convolution_param {{ {CONV} }}", "cconvolution_param"),
        (
            "CConvolutionDepthwise",
            "ConvolutionDepthwise",
            "convolution_param { num_output: 2 kernel_size: 3 }",
            "cconv_depthwise_param",
        ),
        (
            "CInnerProduct",
            "InnerProduct",
            "inner_product_param { num_output: 3 }",
            "cinner_product_param",
        ),
    ],
)
def test_type_of_dynamic_network_surgery_is_the_plain_one(kind, plain, settings, name, own) -> None:
    lines: list[str] = []
    net = upgraded(INPUT + layer(kind, settings, f"{name} {{ {own} }}" if own else ""), lines)
    (expected,) = upgraded(layer(plain, settings)).layer
    assert text.to_text(net.layer[1]) == text.to_text(expected)
    assert f"net.prototxt:2: '{kind}' is {plain} whose weights are multiplied" in lines[0]
    assert "keep_zeros: true" in lines[0]
    Net(net)


@pytest.mark.parametrize(
    ("kind", "plain", "param", "own", "settings"),
    [
        (
            "SqueezeConvolution",
            "Convolution",
            "convolution_param",
            "squeeze_convolution_param",
            CONV + ' weight_filler { type: "gaussian" std: 0.01 }',
        ),
        (
            "SqueezeDeconvolution",
            "Deconvolution",
            "convolution_param",
            "squeeze_convolution_param",
            CONV,
        ),
        (
            "SqueezeInnerProduct",
            "InnerProduct",
            "inner_product_param",
            "squeeze_inner_product_param",
            "num_output: 3 bias_term: false",
        ),
    ],
)
def test_settings_of_squeeze_types_are_those_of_the_plain_type(
    kind: str, plain: str, param: str, own: str, settings: str
) -> None:
    net = upgraded(INPUT + layer(kind, f"{own} {{ {settings}\n {SCHEDULE} }}"))
    (expected,) = upgraded(layer(plain, f"{param} {{ {settings} }}")).layer
    assert text.to_text(net.layer[1]) == text.to_text(expected)
    Net(net)


def test_field_that_is_not_of_the_schedule_is_refused_where_the_net_is_built() -> None:
    block = f"squeeze_convolution_param {{ {CONV}\n\n lenght: 3 {SCHEDULE} }}"
    net = upgraded(INPUT + layer("SqueezeConvolution", block))
    with pytest.raises(NetError, match="net.prototxt:2: .*ConvolutionParameter has no field named"):
        Net(net)


def blob(array: np.ndarray) -> bytes:
    dims = b"".join(number_field(1, n) for n in array.shape)
    return block(7, block(5, array.astype("<f4").tobytes()) + block(7, dims))


def write(folder: Path, kind: str, blobs: list[np.ndarray], *fields: bytes) -> Path:
    path = folder / "pruned.caffemodel"
    known = block(1, b"l") + block(2, kind.encode()) + block(3, b"x") + block(4, b"y")
    content = known + b"".join(map(blob, blobs)) + b"".join(fields)
    path.write_bytes(block(1, b"net") + block(100, content))
    return path


MASKED = [WEIGHT * MASK, BIAS * BIAS_MASK]


@pytest.mark.parametrize(
    ("blobs", "expected"),
    [
        ([WEIGHT, BIAS, MASK, BIAS_MASK], MASKED),  # Dynamic Network Surgery
        ([WEIGHT, MASK], MASKED[:1]),  # without bias
        ([WEIGHT, BIAS, MASK], [MASKED[0], BIAS]),  # Auto_pruning
        ([WEIGHT, BIAS, MASK, BIAS_MASK, np.ones((1, 1, 1, 2))], MASKED),  # Synopsys
        ([WEIGHT, MASK, np.ones((1, 1, 1, 2))], MASKED[:1]),
        ([WEIGHT, BIAS], [WEIGHT, BIAS]),  # not pruned yet
        ([WEIGHT], [WEIGHT]),
        ([], []),
    ],
)
@pytest.mark.parametrize("kind", ["CConvolution", "SqueezeConvolution"])
def test_masks_are_multiplied_into_the_weights(tmp_path, kind, blobs, expected) -> None:
    (read,) = read_weights(write(tmp_path, kind, blobs))
    assert (read.type, len(read.blobs)) == ("Convolution", len(expected))
    for got, want in zip(read.blobs, expected, strict=True):
        assert np.array_equal(got, want.astype(np.float32))


def test_masks_of_other_types_are_no_masks(tmp_path: Path) -> None:
    (read,) = read_weights(write(tmp_path, "Convolution", [WEIGHT, BIAS, MASK, BIAS_MASK]))
    assert len(read.blobs) == 4


def test_pruned_net_computes_with_its_masks(tmp_path: Path) -> None:
    own = f"convolution_param {{ {CONV} }} cconvolution_param {{ {SCHEDULE} }}"
    net = Net(upgraded(INPUT + layer("CConvolution", own)))
    net.load_weights(write(tmp_path, "CConvolution", [WEIGHT, BIAS, MASK, BIAS_MASK])).check()
    x = torch.randn(1, 2, 9, 9)
    net({"x": x})
    weight, bias = (torch.from_numpy(a).float() for a in MASKED)
    expected = torch.nn.functional.conv2d(x, weight, bias, dilation=2, groups=2)
    torch.testing.assert_close(net.blobs["y"], expected)


SQUEEZE = (
    number_field(1, 2)
    + number_field(4, 3)
    + number_field(5, 2)
    + number_field(24, 2)
    + a_float(18, 0.001)
    + a_float(21, 3)
    + block(22, block(1, b"constant"))
)
PLAIN = number_field(1, 2) + number_field(4, 3) + number_field(5, 2) + number_field(18, 2)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("CConvolution", [block(106, PLAIN), block(140, a_float(1, 0.1) + a_float(4, 3))]),
        ("CConvolution", [block(106, PLAIN), block(150, a_float(7, 1500))]),
        ("SqueezeConvolution", [block(147, SQUEEZE)]),
        ("SqueezeConvolution", [block(187, SQUEEZE)]),
    ],
)
def test_upgrade_tool_writes_the_plain_net(tmp_path: Path, kind: str, fields: list[bytes]) -> None:
    path = write(tmp_path, kind, [WEIGHT, BIAS, MASK, BIAS_MASK], *fields)
    output = tmp_path / "plain.caffemodel"
    assert upgrade_net_proto_binary.main([str(path), str(output)]) == 0
    net = pb.NetParameter()
    net.ParseFromString(output.read_bytes())
    (found,) = net.layer
    blobs = [np.reshape(b.data, b.shape.dim) for b in found.blobs]
    assert all(np.array_equal(a, b.astype(np.float32)) for a, b in zip(blobs, MASKED, strict=True))
    del found.blobs[:]
    (expected,) = upgraded(layer("Convolution", f"convolution_param {{ {CONV} }}")).layer
    text.clear_source_lines(expected)
    assert found == expected
    assert not pruned_layers.has_pruned(net)
