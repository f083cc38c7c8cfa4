from __future__ import annotations

import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, golden_case, layer_net, make_layer, run

SHAPE, REFERENCE = (2, 3, 7, 8), (2, 5, 4, 5)


def body(param: str) -> str:
    return f'type: "Crop" crop_param {{ {param} }}'


def test_crop_equals_the_original():
    golden_case("crop")


@pytest.mark.parametrize(
    ("param", "reference", "cut"),
    [
        ("", (9, 9, 4, 5), (slice(None), slice(None), slice(0, 4), slice(0, 5))),
        ("offset: 3", (2, 3, 4, 5), (slice(None), slice(None), slice(3, 7), slice(3, 8))),
        ("offset: 1 offset: 2", (2, 3, 4, 5), (slice(None), slice(None), slice(1, 5), slice(2, 7))),
        ("axis: 1 offset: 1", (2, 2, 4, 5), (slice(None), slice(1, 3), slice(1, 5), slice(1, 6))),
        ("axis: -1 offset: 2", (2, 3, 9, 6), (..., slice(2, 8))),
        ("axis: 0", (1, 2, 3, 4), (slice(0, 1), slice(0, 2), slice(0, 3), slice(0, 4))),
        ("axis: 2", (2, 3, 4, 5, 6), (..., slice(0, 4), slice(0, 5))),
    ],
)
def test_crop_takes_the_extents_of_the_reference(param, reference, cut):
    layer = make_layer(body(param), SHAPE, reference)
    x = torch.randn(SHAPE, requires_grad=True)
    (y,) = run(layer, x, torch.randn(reference))
    assert torch.equal(y, x[cut])
    (grad,) = torch.autograd.grad(y, x, g := torch.randn_like(y))
    want = torch.zeros_like(x)
    want[cut] = g
    assert torch.equal(grad, want)
    assert layer.per_sample == ("axis: 0" not in param)


def test_extents_follow_the_reference_after_setup():
    layer = make_layer(body("offset: 1"), SHAPE, REFERENCE)
    (y,) = run(layer, torch.randn(4, 3, 9, 9), torch.randn(4, 1, 8, 2))
    assert tuple(y.shape) == (4, 3, 8, 2)


def test_reference_gets_no_gradient():
    net = layer_net(body(""), SHAPE, REFERENCE)
    reference = torch.randn(REFERENCE, requires_grad=True)
    net({"x0": torch.randn(SHAPE), "x1": reference})
    assert not net.blobs["y0"].requires_grad


@pytest.mark.parametrize(
    ("param", "reference", "words"),
    [
        (
            "offset: 4",
            REFERENCE,
            "the crop for dimension 2 is out of bounds with size 4 and offset",
        ),
        ("offset: 4 offset: 0", REFERENCE, "dimension 2 is out of bounds with size 4 and offset 4"),
        ("axis: 1", REFERENCE, "the crop for dimension 1 is out of bounds with size 5"),
        ("offset: 4294967295", REFERENCE, "is out of bounds"),
        ("offset: 1 offset: 1 offset: 1", REFERENCE, "number of offset values specified must be"),
        ("axis: 1 offset: 1 offset: 1", REFERENCE, "following axis: 3, axis 1 included"),
        ("axis: 4", REFERENCE, "axis is out of range for a bottom of 4 axes"),
        ("", (2, 3, 4), "the second bottom must have as many axes as the first"),
    ],
)
def test_mistake_is_reported(param, reference, words):
    with pytest.raises(NetError, match=words):
        make_layer(body(param), SHAPE, reference)


@pytest.mark.parametrize(
    ("param", "reference"),
    [("offset: 1 offset: 2", REFERENCE), ("axis: 3", REFERENCE), ("axis: 0", (2, 3, 4, 5))],
)
def test_onnx_equals_forward(param, reference):
    check_onnx(layer_net(body(param), SHAPE, reference, phase=pb.TEST))
