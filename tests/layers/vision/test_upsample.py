from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, gradcheck, inputs_text, make_layer, make_net, run

SHAPE = (2, 3, 3, 4)


def body(param: str) -> str:
    return f'type: "Upsample" upsample_param {{ {param} }}'


def pooled(pooling: str, param: str, shape: tuple[int, ...]):
    """A net that pools and puts the maxima back where they were."""
    return make_net(
        inputs_text(shape)
        + f'layer {{ name: "P" type: "Pooling" bottom: "x0" top: "p" top: "mask" '
        f"pooling_param {{ {pooling} }} }}\n"
        f'layer {{ name: "U" bottom: "p" bottom: "mask" top: "y" {body(param)} }}',
        pb.TEST,
    )


@pytest.mark.parametrize(
    ("param", "size"),
    [
        ("", (6, 8)),
        ("scale: 3", (9, 12)),
        ("scale_h: 3 scale_w: 2", (9, 8)),
        ("pad_out_h: true", (5, 8)),
        ("pad_out_w: true scale: 2", (6, 7)),
        ("upsample_h: 7 upsample_w: 5", (7, 5)),
        ("scale: 4 upsample_h: 7 upsample_w: 5", (7, 5)),  # as SegNet's nets have it
    ],
)
def test_values_go_where_the_mask_says(param, size):
    generator = np.random.default_rng(0)
    x = generator.standard_normal(SHAPE).astype(np.float32)
    # Each plane's places are drawn without repetition.
    places = np.stack([generator.permutation(size[0] * size[1])[:12] for _ in range(6)])
    mask = places.reshape(SHAPE)
    (y,) = run(
        make_layer(body(param), SHAPE, SHAPE), torch.from_numpy(x), torch.from_numpy(mask).float()
    )
    want = np.zeros((*SHAPE[:2], size[0] * size[1]), np.float32)
    for n, c, h, w in np.ndindex(*SHAPE):
        want[n, c, mask[n, c, h, w]] = x[n, c, h, w]
    assert np.array_equal(y.numpy(), want.reshape(*SHAPE[:2], *size))


def test_maxima_return_to_their_places():
    net = pooled("kernel_size: 2 stride: 2", "scale: 2", (2, 3, 6, 8))
    x = torch.randn(5, 3, 6, 8)
    net({"x0": x})
    y = net.blobs["y"]
    assert torch.equal(y[y != 0], x[y != 0])
    assert (y != 0).sum() == net.blobs["p"].numel()


@pytest.mark.parametrize(
    ("pooling", "param", "shape"),
    [
        ("kernel_size: 2 stride: 2", "", (2, 3, 6, 8)),
        ("kernel_size: 2 stride: 2", "pad_out_h: true pad_out_w: true", (2, 3, 5, 7)),
        ("kernel_size: 2 stride: 2", "upsample_h: 5 upsample_w: 6", (2, 3, 5, 6)),
        ("kernel_size: 3 stride: 1 pad: 1", "upsample_h: 5 upsample_w: 6", (2, 3, 5, 6)),
    ],
)
def test_onnx(pooling, param, shape):
    check_onnx(pooled(pooling, param, shape))


def test_gradient():
    x, mask = torch.randn(1, 2, 2, 2), torch.tensor([3.0, 0.0, 7.0, 15.0]).repeat(2)
    layer = make_layer(body(""), x.shape, x.shape).double()
    mask = mask.reshape(x.shape).double()
    leaf = x.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda value: layer(value, mask), leaf)
    gradcheck(layer, x[:, :, :1, :1], mask[:, :, :1, :1] * 0)


def test_of_values_for_one_place_the_last_is_there_and_all_get_its_gradient():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 2, 2).requires_grad_()
    mask = torch.tensor([5.0, 5.0, 1.0, 5.0]).reshape(1, 1, 2, 2)
    (y,) = run(make_layer(body(""), x.shape, x.shape), x, mask)
    assert y.flatten()[:6].tolist() == [0, 3, 0, 0, 0, 4]
    y.backward(torch.arange(16.0).reshape(y.shape))
    assert x.grad.flatten().tolist() == [5, 5, 1, 5]


def test_layout_of_the_bottoms_makes_no_difference():
    layer = make_layer(body(""), SHAPE, SHAPE)
    x, mask = torch.randn(SHAPE), torch.randint(0, 48, SHAPE).float()
    last = (t.to(memory_format=torch.channels_last) for t in (x, mask))
    assert torch.equal(layer(*last), layer(x, mask))


@pytest.mark.parametrize("place", [-1.0, 48.0, 1e9])
def test_place_outside_the_plane_is_refused(place):
    layer = make_layer(body(""), SHAPE, SHAPE)
    mask = torch.zeros(SHAPE)
    mask[1, 2, 2, 3] = place
    with pytest.raises(NetError, match=f"upsample top index {int(place)} out of.*positions=48"):
        layer(torch.randn(SHAPE), mask)


@pytest.mark.parametrize(
    ("param", "shapes", "words"),
    [
        ("", [SHAPE, (2, 3, 3, 3)], "Input and mask must have 4 axes.*and the same shape"),
        ("", [(2, 3), (2, 3)], "Input and mask must have 4 axes"),
        ("", [SHAPE], r"takes 2 bottom blob\(s\)"),
        ("scale: 1", [SHAPE] * 2, "scale must be greater than 1"),
        ("scale_h: 2", [SHAPE] * 2, "scale OR scale_h & scale_w are required"),
        ("scale: 2 scale_h: 2 scale_w: 2", [SHAPE] * 2, "scale OR scale_h & scale_w are required"),
        ("scale: 3 pad_out_h: true", [SHAPE] * 2, "requires scale == 2"),
        ("upsample_h: 6", [SHAPE] * 2, "upsample_h & upsample_w are required together"),
        ("upsample_h: 1 upsample_w: 9", [SHAPE] * 2, "must be greater than 1"),
        ("scale: 4000000000", [SHAPE] * 2, "top 'y0' is too large"),
    ],
)
def test_mistake_is_reported(param, shapes, words):
    with pytest.raises(NetError, match=words):
        make_layer(body(param), *shapes)
