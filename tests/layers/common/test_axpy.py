from __future__ import annotations

import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, gradcheck, layer_net, make_layer, make_net, run

BODY = 'type: "Axpy"'


@pytest.mark.parametrize(
    ("a", "x"),
    [((2, 3), (2, 3, 4, 5)), ((2, 3, 1, 1), (2, 3, 4, 5)), ((2, 3), (2, 3)), ((2, 3), (2, 3, 4))],
)
def test_shape_gradient_and_onnx(a, x):
    layer = make_layer(BODY, a, x, x)
    bottoms = [torch.randn(s) for s in (a, x, x)]
    run(layer, *bottoms)
    gradcheck(layer, *bottoms)
    check_onnx(layer_net(BODY, a, x, x, phase=pb.TEST))


def test_axpy_weighs_each_channel():
    a, x, y = torch.randn(2, 3), torch.randn(2, 3, 2, 2), torch.randn(2, 3, 2, 2)
    (top,) = run(make_layer(BODY, (2, 3), (2, 3, 2, 2), (2, 3, 2, 2)), a, x, y)
    for n in range(2):
        for c in range(3):
            torch.testing.assert_close(top[n, c], a[n, c] * x[n, c] + y[n, c])


def test_axpy_is_a_scale_and_an_eltwise():
    net = make_net(
        """
        layer { name: "x" type: "Input" top: "x" top: "y"
                input_param { shape { dim: 2 dim: 3 dim: 4 dim: 4 } } }
        layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 2 dim: 3 } } }
        layer { name: "L" type: "Axpy" bottom: "a" bottom: "x" bottom: "y" top: "one" }
        layer { name: "s" type: "Scale" bottom: "x" bottom: "a" top: "s" scale_param { axis: 0 } }
        layer { name: "e" type: "Eltwise" bottom: "s" bottom: "y" top: "two" }
        """
    )
    net({n: torch.randn(net.shapes[n]) for n in "axy"})
    torch.testing.assert_close(net.blobs["one"], net.blobs["two"])


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ([(2, 4), (2, 3, 4), (2, 3, 4)], r"must be \(N, C\) or \(N, C, 1, 1\)"),
        ([(2, 3, 4, 4), (2, 3, 4, 4), (2, 3, 4, 4)], r"must be \(N, C\) or \(N, C, 1, 1\)"),
        ([(2,), (2,), (2,)], r"must be \(N, C\) or \(N, C, 1, 1\)"),
        ([(2, 3), (2, 3, 4), (2, 3, 5)], "second and third bottom must have the same shape"),
    ],
)
def test_bottoms_that_do_not_fit_are_reported(shapes, words):
    with pytest.raises(NetError, match=words):
        make_layer(BODY, *shapes)
