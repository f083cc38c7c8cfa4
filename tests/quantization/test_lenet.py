"""The LeNet of 2015 on MNIST, with figures found beforehand."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_kd.net import read_net
from caffe_kd.quantization import Method, Options, quantize

from .nets import DATA

SHARED = Path(__file__).parents[3] / "shared"
LENET, MNIST = SHARED / "models" / "lenet-ethereon", SHARED / "data" / "mnist"
FLOAT_ERRORS = 86
ACCURACY = """
layer { name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy" }
"""


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """The file of LeNet with MNIST's digits in place of its Input layer."""
    if not (LENET.is_dir() and MNIST.is_dir()):
        pytest.skip(f"{LENET} or {MNIST} is absent")
    layers = (LENET / "lenet.prototxt").read_text().split("layer {")
    data = "".join(
        DATA.format(phase=phase, folder=MNIST.as_posix(), name=name, transform="", batch=64)
        for phase, name in (("TRAIN", "train"), ("TEST", "t10k"))
    )
    path = tmp_path_factory.mktemp("lenet") / "lenet.prototxt"
    path.write_text('name: "LeNet"\n' + data + "layer {".join(["", *layers[2:]]) + ACCURACY)
    return path


def quantized(net, **options):
    weights = LENET / "lenet_iter_10000.caffemodel"
    output = net.with_suffix(".onnx")
    return quantize(read_net(net), net, weights, output, Options(timed=False, **options))


@pytest.mark.parametrize("method", [Method.MINMAX, Method.AUTO])
def test_lenet_keeps_its_errors_in_a_quarter_of_its_bytes(net, method):
    result = quantized(net, method=method)
    errors = result.evaluations[-1].errors
    assert errors[0] == FLOAT_ERRORS
    assert abs(errors[1] - FLOAT_ERRORS) <= 10
    assert result.path.stat().st_size < 0.27 * result.sizes[0]
    if method is Method.MINMAX:
        assert (result.ranges[0].scale, result.ranges[0].zero_point) == (1 / 256, 0)
