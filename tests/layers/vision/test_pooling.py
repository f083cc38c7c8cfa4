from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import ExportError, NetError
from caffe_kd.export.onnx import to_onnx
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, golden_case, gradcheck, layer_net, make_layer, run

LOWEST = np.finfo(np.float32).min


def pooling(param: str, shape=(2, 3, 8, 7), tops=1):
    return make_layer(f'type: "Pooling" pooling_param {{ {param} }}', shape, tops=tops)


@pytest.mark.parametrize(
    "name",
    [
        "pool_ave_2_2",
        "pool_ave_3_2_ceil",
        "pool_ave_floor",
        "pool_ave_global",
        "pool_max_2_2",
        "pool_max_3_2_ceil",
        "pool_max_3_2_p1",
        "pool_max_global",
        "pool_max_mask",
    ],
)
def test_pooling_equals_the_original(name):
    golden_case(name)


def places(size, k, s, p, ceil, any_pad):
    o = (math.ceil if ceil else math.floor)((size + 2 * p - k) / s) + 1
    return o - 1 if any_pad and (o - 1) * s >= size + p else o


def loops(x, k, s, p, out, is_max):
    """Pool one plane as Caffe's loops do: values and indices (-1: none)."""
    height, width = x.shape
    top, mask = np.zeros(out), np.full(out, -1.0)
    for i, j in np.ndindex(*out):
        h, w = i * s[0] - p[0], j * s[1] - p[1]
        if is_max:
            best = LOWEST
            for a in range(max(h, 0), min(h + k[0], height)):
                for b in range(max(w, 0), min(w + k[1], width)):
                    if x[a, b] > best:
                        best, mask[i, j] = x[a, b], a * width + b
            top[i, j] = best
        else:
            bottom, right = min(h + k[0], height + p[0]), min(w + k[1], width + p[1])
            counted = np.float64((bottom - h) * (right - w))
            total = x[max(h, 0) : min(bottom, height), max(w, 0) : min(right, width)].sum()
            with np.errstate(all="ignore"):
                top[i, j] = total / counted
    return top, mask


# Kernel, stride and pad by axis; each case is tried on both axes against every other.
WINDOWS = [(k, s, p) for k in range(1, 5) for s in range(1, 6) for p in range(k) if (k + s + p) % 2]


@pytest.mark.parametrize("is_max", [True, False])
@pytest.mark.parametrize("ceil", [True, False])
def test_every_window_equals_the_originals_loops(is_max, ceil):
    x = torch.randint(-4, 5, (1, 1, 6, 5)).float()  # whole numbers: ties, and sums without error
    kinds = set()
    for (kh, sh, ph), (kw, sw, pw) in itertools.product(WINDOWS, WINDOWS[::4]):
        any_pad = bool(ph or pw)
        out = places(6, kh, sh, ph, ceil, any_pad), places(5, kw, sw, pw, ceil, any_pad)
        if min(out) < 1:
            continue
        layer = pooling(
            f"pool: {'MAX' if is_max else 'AVE'} round_mode: {'CEIL' if ceil else 'FLOOR'} "
            f"kernel_h: {kh} kernel_w: {kw} stride_h: {sh} stride_w: {sw} pad_h: {ph} pad_w: {pw}",
            (1, 1, 6, 5),
            tops=2 if is_max else 1,
        )
        top, *mask = (t.numpy()[0, 0] for t in run(layer, x))
        want, index = loops(
            x.numpy()[0, 0].astype(np.float64), (kh, kw), (sh, sw), (ph, pw), out, is_max
        )
        case = (kh, kw), (sh, sw), (ph, pw)
        # A mean of whole numbers is off by float32's rounding alone.
        np.testing.assert_allclose(top, want, rtol=1e-6, atol=1e-6, err_msg=str(case))
        if is_max:
            np.testing.assert_array_equal(mask[0], index, str(case))
            alone = pooling(str(layer.param).replace("\n", " "), (1, 1, 6, 5))
            np.testing.assert_array_equal(run(alone, x)[0].numpy()[0, 0], top)
        kinds.add(layer.geometry(x.shape).is_plain)
    assert kinds == {True, False}, "both ways of pooling were to be tried"


def test_ceil_and_floor_differ_in_size():
    x = torch.randn(1, 1, 8, 8)
    assert run(pooling("kernel_size: 3 stride: 2", x.shape), x)[0].shape[2:] == (4, 4)
    floor = pooling("kernel_size: 3 stride: 2 round_mode: FLOOR", x.shape)
    assert run(floor, x)[0].shape[2:] == (3, 3)


def test_kernel_larger_than_the_plane_takes_all_of_it():
    x = torch.randn(1, 2, 2, 2)
    layer = pooling("kernel_size: 3 stride: 2", x.shape)
    assert torch.equal(run(layer, x)[0], x.amax((2, 3), keepdim=True))


@pytest.mark.parametrize(
    "param",
    [
        "kernel_size: 3 stride: 2 pad: 1",
        "kernel_size: 3 stride: 2 pad: 2",
        "kernel_size: 2 stride: 4",
        "pool: AVE kernel_size: 3 stride: 2 pad: 2",
        "pool: AVE kernel_size: 2 stride: 4",
        "pool: AVE global_pooling: true",
        "global_pooling: true",
    ],
)
def test_gradient(param):
    x = torch.randn(2, 2, 5, 7)
    gradcheck(pooling(param, x.shape), x)


def test_first_of_equal_values_gets_the_gradient():
    x = torch.ones(1, 1, 4, 4, requires_grad=True)
    (grad,) = torch.autograd.grad(pooling("kernel_size: 2 stride: 2", x.shape)(x).sum(), x)
    want = torch.zeros(4, 4)
    want[::2, ::2] = 1
    assert torch.equal(grad[0, 0], want)


def test_global_pooling_follows_a_new_extent():
    layer = pooling("pool: AVE global_pooling: true")
    x = torch.randn(2, 3, 5, 9)
    torch.testing.assert_close(run(layer, x)[0], x.mean((2, 3), keepdim=True))


def test_channels_last_stays_and_gives_the_same_numbers():
    x = torch.randn(2, 3, 8, 7)
    for param in ("kernel_size: 3 stride: 2", "pool: AVE kernel_size: 3 stride: 2 pad: 2"):
        layer = pooling(param)
        y = layer(x.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(y, layer(x))


@pytest.mark.parametrize(
    ("param", "words"),
    [
        ("", "Filter size is kernel_size OR kernel_h and kernel_w; not both"),
        ("kernel_size: 2 kernel_h: 2 kernel_w: 2", "Filter size is kernel_size OR kernel_h"),
        ("kernel_h: 2", "Filter size is kernel_size OR kernel_h and kernel_w"),
        ("kernel_size: 0", "Filter dimensions cannot be zero"),
        ("kernel_size: 2 pad: 2", r"pad must be smaller than the kernel.*pad=\(2, 2\)"),
        ("kernel_size: 2 pad_h: 1", "Pad is pad OR pad_h and pad_w are required"),
        ("kernel_size: 2 pad: 1 pad_h: 1 pad_w: 1", "Pad is pad OR pad_h and pad_w"),
        ("kernel_size: 2 stride_w: 1", "Stride is stride OR stride_h and stride_w are required"),
        ("kernel_size: 2 stride: 0", "Stride cannot be zero"),
        ("global_pooling: true kernel_size: 2", "Filter size cannot specified"),
        ("global_pooling: true stride: 2", "only pad = 0 and stride = 1"),
        (
            "pool: STOCHASTIC kernel_size: 2",
            "STOCHASTIC is not implemented.*NOT_IMPLEMENTED on the CPU. Use MAX",
        ),
        ("kernel_size: 30", "no window fits"),
        ("kernel_size: 4000000000 pad: 3999999999", "blob size exceeds INT_MAX"),
    ],
)
def test_mistake_is_reported(param, words):
    with pytest.raises(NetError, match=words) as error:
        pooling(param)
    assert str(error.value).startswith("net.prototxt:2: layer 'L' (Pooling): ")


def test_bottom_of_three_axes_is_refused():
    with pytest.raises(NetError, match="Input must have 4 axes"):
        pooling("kernel_size: 2", (3, 8, 8))


def test_mask_of_a_mean_is_refused():
    with pytest.raises(NetError, match="only pool: MAX has a mask"):
        pooling("pool: AVE kernel_size: 2", tops=2)


@pytest.mark.parametrize("pool", ["MAX", "AVE"])
@pytest.mark.parametrize(
    "param",
    [
        "kernel_size: 3 stride: 2",
        "kernel_size: 3 stride: 2 round_mode: FLOOR",
        "kernel_size: 3 stride: 2 pad: 1",
        "kernel_size: 3 stride: 2 pad: 2",
        "kernel_size: 2 stride: 3 pad: 1",
        "kernel_size: 3 stride: 3 pad: 1",
        "kernel_h: 3 kernel_w: 2 stride: 2 pad_h: 2 pad_w: 0",
        "global_pooling: true",
    ],
)
def test_onnx_equals_forward(pool, param):
    body = f'type: "Pooling" pooling_param {{ pool: {pool} {param} }}'
    check_onnx(layer_net(body, (2, 3, 8, 7), phase=pb.TEST))


def test_onnx_of_windows_outside_the_plane():
    beside = "kernel_size: 1 stride: 2"  # the last window begins at 8 of 8
    body = f'type: "Pooling" pooling_param {{ {beside} }}'
    check_onnx(layer_net(body, (2, 3, 8, 7), phase=pb.TEST))
    for options, tops in (("pool: AVE", 1), ("", 2)):
        body = f'type: "Pooling" pooling_param {{ {options} {beside} }}'
        with pytest.raises(ExportError, match="a window lies outside the plane"):
            check_onnx(layer_net(body, (2, 3, 8, 7), tops=tops, phase=pb.TEST))


@pytest.mark.parametrize(
    "param",
    [
        "kernel_size: 3 stride: 2",
        "kernel_size: 3 stride: 2 pad: 1",
        "kernel_size: 3 stride: 2 pad: 2",
        "kernel_size: 2 stride: 5 pad: 1",
        "global_pooling: true",
    ],
)
def test_onnx_of_a_mask_equals_forward(param):
    body = f'type: "Pooling" pooling_param {{ {param} }}'
    check_onnx(layer_net(body, (2, 3, 8, 7), tops=2, phase=pb.TEST))


def test_onnx_of_a_mean_leaves_no_rounding_up_to_the_runtime(tmp_path):
    """ONNX Runtime up to 1.23 counts what a window hangs over the plane."""
    body = 'type: "Pooling" pooling_param { pool: AVE kernel_size: 3 stride: 2 }'
    model = to_onnx(layer_net(body, (2, 3, 8, 8), phase=pb.TEST), tmp_path / "net.onnx")
    (node,) = [node for node in model.graph.node if node.op_type == "AveragePool"]
    assert "ceil_mode" not in [attribute.name for attribute in node.attribute]
