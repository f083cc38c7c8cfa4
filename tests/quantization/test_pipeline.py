"""A net is quantised as its files say, and is as good as before."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from caffe_kd.net import read_net
from caffe_kd.quantization import Method, Options, quantize

from .nets import NETS


def quantized(folder, name="conv", **options):
    options = {"timed": False, "iterations": 4, **options}
    path = folder / f"{name}.prototxt"
    weights = folder / f"{name}.caffemodel"
    return quantize(read_net(path), path, weights, folder / "int8.onnx", Options(**options))


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("more", [{}, {"per_channel": True}, {"symmetric": True}])
def test_auto_is_as_good_as_float(trained, name, more):
    result = quantized(trained, name, method=Method.AUTO, **more)
    best = min(result.trials, key=lambda method: result.trials[method].rms)
    assert result.method is best
    test = result.evaluations[-1]
    assert test.name == f"{name}.prototxt TEST"
    assert test.samples == test.labels == 500
    before, after = test.errors
    assert before < 50  # of 500: the net has learned
    assert after <= before + 10
    onnx.checker.check_model(str(result.path), full_check=True)


@pytest.mark.parametrize("name", NETS)
def test_dynamic_is_as_good_as_float(trained, name):
    result = quantized(trained, name, dynamic=True)
    before, after = result.evaluations[-1].errors
    assert after <= before + 10
    assert not result.ranges
    assert result.sizes[1] < result.sizes[0]


def test_pixels_are_represented_exactly(trained):
    row = quantized(trained).ranges[0]
    assert (row.blob, row.scale, row.zero_point, row.clipped) == ("data", 1 / 256, 0, 0.0)


def operators(result, name):
    """Return the types of the nodes that lead to a node of the int8 model, and of its readers."""
    nodes = onnx.load(result.path).graph.node
    node = next(n for n in nodes if n.name == name)
    makers = [n.op_type for n in nodes for top in n.output if top in node.input]
    readers = [n.op_type for n in nodes for bottom in n.input if bottom in node.output]
    return makers, readers


def test_logits_and_excluded_layers_stay_float(trained):
    result = quantized(trained, exclude=["conv2"])
    assert operators(result, "ip2")[1] == []  # the output itself
    assert operators(result, "conv1")[1] == ["QuantizeLinear"]
    makers, readers = operators(result, "conv2")
    assert makers == ["DequantizeLinear"]  # of pool1, whose weights are no nodes
    assert readers == ["Relu"]
    assert "conv2" not in result.plan.weighted
    assert all(row.layer != "conv2" for row in result.ranges)


def test_values_keep_their_range_through_pooling_and_flattening(trained):
    result = quantized(trained)
    scales = {row.blob: row.scale for row in result.ranges}
    assert list(scales) == ["data", "conv1", "pool1", "conv2", "ip1"]
    assert scales["conv1"] == scales["pool1"]
    makers, _ = operators(result, "ip1/Flatten")
    assert makers == ["DequantizeLinear"]
    # What reads a blob of pixels as a vector is said to read that blob.
    assert [row.blob for row in quantized(trained, "mlp").ranges] == ["data", "ip1"]


def test_methods_choose_different_thresholds(trained):
    cuts = {}
    for method in (Method.MINMAX, Method.MSE, Method.PERCENTILE, Method.ENTROPY):
        rows = quantized(trained, method=method, percent=99).ranges
        cuts[method] = np.array([row.threshold for row in rows])
    assert (cuts[Method.ENTROPY] != cuts[Method.MINMAX]).any()
    assert (cuts[Method.PERCENTILE] < cuts[Method.MINMAX]).any()
    assert (cuts[Method.MSE] <= cuts[Method.MINMAX]).all()


def test_augmentation_plays_no_part_in_calibration(trained):
    net = (trained / "conv.prototxt").read_text()
    path = trained / "augmented.prototxt"
    path.write_text(net.replace("scale: 0.00390625", "scale: 0.00390625 mirror: true jitter: 3", 1))
    weights, output = trained / "conv.caffemodel", trained / "augmented.onnx"
    options = Options(timed=False, iterations=4)
    assert quantize(read_net(path), path, weights, output, options).ranges == (
        quantized(trained).ranges
    )


def test_batch_norm_is_folded(trained):
    result = quantized(trained, "residual")
    assert "conv1_bn (BatchNorm) is part of conv1 now" in result.source.folded
    types = {node.op_type for node in onnx.load(result.path).graph.node}
    assert types == {"Conv", "Relu", "Add", "AveragePool", "Flatten", "Gemm"} - {"Relu"} | {
        "QuantizeLinear",
        "DequantizeLinear",
    }


def test_model_says_how_pixels_become_its_input(trained):
    model = onnx.load(quantized(trained).path)
    facts = {p.key: p.value for p in model.metadata_props}
    assert facts["caffe_kd.data.scale"] == "0.00390625"
    assert facts["caffe_kd.quantization"] == "static MINMAX, weights per tensor"
    assert model.producer_name == "caffe_kd"
