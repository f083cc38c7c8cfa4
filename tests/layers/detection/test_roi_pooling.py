from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.layers.detection import roi_pooling
from tests.helpers import check_onnx, gradcheck, inputs_text, make_layer, make_net, run

SHAPE = (2, 3, 8, 11)
REGIONS = [
    [0, 0, 0, 10, 7],  # the whole plane
    [1, 2, 1, 7, 5],
    [1, 3, 3, 3, 3],  # one place
    [0, 6, 6, 2, 2],  # the wrong way round: one place
    [1, -5, -4, 3, 2],  # begins outside
    [0, 8, 6, 30, 20],  # ends outside
    [1, 40, 40, 50, 50],  # all outside
    [0, 2.5, 0.5, 6.5, 4.49],  # halves
    [1, -0.5, -1.5, 3.5, 2.5],
]


def body(pooled_h: int, pooled_w: int, scale: float = 1) -> str:
    return (
        f'type: "ROIPooling" roi_pooling_param {{ pooled_h: {pooled_h} pooled_w: {pooled_w} '
        f"spatial_scale: {scale} }}"
    )


def c_round(value: np.float32) -> int:
    """Round as C does: halves away from zero."""
    return int(math.copysign(math.floor(abs(float(value)) + 0.5), value))


def bins(start, end, scale, count, dim):
    first, last = c_round(start * np.float32(scale)), c_round(end * np.float32(scale))
    size = np.float32(max(last - first + 1, 1)) / np.float32(count)
    for i in range(count):
        low = math.floor(np.float32(i) * size) + first
        high = math.ceil(np.float32(i + 1) * size) + first
        yield min(max(low, 0), dim), min(max(high, 0), dim)


def plain(x, regions, pooled, scale):
    """Return values and where in the plane each is, -1 for none."""
    shape = (len(regions), x.shape[1], *pooled)
    y, where = np.zeros(shape, x.dtype), np.full(shape, -1)
    for r, (record, x1, y1, x2, y2) in enumerate(np.float32(regions)):
        for i, (top, bottom) in enumerate(bins(y1, y2, scale, pooled[0], x.shape[2])):
            for j, (left, right) in enumerate(bins(x1, x2, scale, pooled[1], x.shape[3])):
                for c in range(x.shape[1]):
                    best = -math.inf
                    for h in range(top, bottom):
                        for w in range(left, right):
                            if x[int(record), c, h, w] > best:
                                best = x[int(record), c, h, w]
                                y[r, c, i, j], where[r, c, i, j] = best, h * x.shape[3] + w
    return y, where


CASES = [(2, 3, 1), (1, 1, 1), (7, 7, 1), (3, 2, 0.5), (3, 3, 0.0625), (2, 2, 1.7)]


@pytest.mark.parametrize(("pooled_h", "pooled_w", "scale"), CASES)
def test_value_is_the_largest_of_the_bin(pooled_h, pooled_w, scale):
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    regions = np.float32(REGIONS) / [1, *[scale] * 4]
    layer = make_layer(body(pooled_h, pooled_w, scale), SHAPE, regions.shape)
    (y,) = run(layer, torch.from_numpy(x), torch.from_numpy(regions).float())
    want, _ = plain(x, regions, (pooled_h, pooled_w), scale)
    assert np.array_equal(y.numpy(), want)


def test_gradient_goes_to_the_first_of_equal_values():
    x = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.float32)
    layer = make_layer(body(2, 3), SHAPE, (len(REGIONS), 5))
    leaf = torch.from_numpy(x).requires_grad_()
    (y,) = run(layer, leaf, torch.tensor(REGIONS))
    gradient = torch.randn(y.shape)
    y.backward(gradient)
    _, where = plain(x, REGIONS, (2, 3), 1)
    want = np.zeros((2, 3, 8 * 11))
    for r, c, i, j in np.ndindex(*where.shape):
        if where[r, c, i, j] >= 0:
            want[int(REGIONS[r][0]), c, where[r, c, i, j]] += gradient[r, c, i, j].item()
    np.testing.assert_allclose(leaf.grad.numpy().reshape(want.shape), want, rtol=0, atol=1e-5)


def test_gradient_is_the_derivative():
    regions = torch.tensor(REGIONS).double()
    layer = make_layer(body(2, 3), SHAPE, tuple(regions.shape)).double()
    x = torch.randperm(2 * 3 * 8 * 11).double().reshape(SHAPE).requires_grad_()
    assert torch.autograd.gradcheck(lambda value: layer(value, regions), x)
    gradcheck(layer, x[:1], torch.zeros(1, 5))  # the regions get no gradient
    x.grad = None
    regions.requires_grad_()
    layer(x, regions).sum().backward()
    assert regions.grad is None


def test_last_bin_reaches_one_place_too_far_where_floats_do():
    """7 bins of length L / 7 are longer than L for some L, in float32."""
    length = next(n for n in range(1, 200) if math.ceil(np.float32(7) * (np.float32(n) / 7)) > n)
    x = torch.zeros(1, 1, 1, length + 1)
    x[..., length] = 5  # just behind the region
    layer = make_layer(body(1, 7), tuple(x.shape), (1, 5))
    (y,) = run(layer, x, torch.tensor([[0.0, 0, 0, length - 1, 0]]))
    assert y.flatten().tolist() == [0] * 6 + [5]


@pytest.mark.parametrize("at_once", [1, 100, 2000])
def test_any_number_of_bins_at_once_gives_the_same(monkeypatch, at_once):
    x, regions = torch.randn(SHAPE), torch.tensor(REGIONS)
    layer = make_layer(body(3, 2), SHAPE, tuple(regions.shape))
    want = layer(x, regions)
    monkeypatch.setattr(roi_pooling, "_MOST_VALUES", at_once)
    assert torch.equal(layer(x, regions), want)


def test_number_of_regions_batch_and_layout_may_change():
    layer = make_layer(body(3, 2), SHAPE, (4, 5, 1, 1))
    x = torch.randn(5, 3, 9, 6)
    regions = torch.tensor([[4.0, 1, 1, 5, 7], [0, 0, 0, 2, 2]])
    (y,) = run(layer, x, regions)
    assert np.array_equal(y.numpy(), plain(x.numpy(), regions.tolist(), (3, 2), 1)[0])
    assert torch.equal(layer(x.to(memory_format=torch.channels_last), regions), y)


@pytest.mark.parametrize("shape", [(9, 5), (9, 5, 1, 1)])
@pytest.mark.parametrize("scale", [1, 0.5])
def test_onnx(tmp_path, shape, scale):
    import onnxruntime as ort

    from caffe_kd.export.onnx import to_onnx

    net = make_net(
        inputs_text(SHAPE, shape)
        + f'layer {{ name: "L" bottom: "x0" bottom: "x1" top: "y" {body(3, 2, scale)} }}'
    )
    model = to_onnx(net, tmp_path / "m.onnx").SerializeToString()
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    x = torch.randn(SHAPE)
    regions = torch.tensor(REGIONS).reshape(shape)
    net({"x0": x, "x1": regions})
    (answer,) = session.run(None, {"x0": x.numpy(), "x1": regions.numpy()})
    assert np.array_equal(answer, net.blobs["y"].numpy())
    check_onnx(net)


@pytest.mark.parametrize("record", [-1, 2, math.nan])
def test_region_of_no_record_is_refused(record):
    layer = make_layer(body(2, 2), SHAPE, (2, 5))
    regions = torch.tensor([[0, 0, 0, 2, 2], [record, 0, 0, 2, 2]])
    with pytest.raises(NetError, match="roi_batch_ind.* must be 0 to 1. Received: roi_batch_ind="):
        layer(torch.randn(SHAPE), regions)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, -1e30])
def test_absurd_coordinates_do_no_harm(value):
    layer = make_layer(body(2, 2), SHAPE, (1, 5))
    for place in range(1, 5):
        regions = torch.tensor([[0.0, 1, 1, 3, 3]])
        regions[0, place] = value
        (y,) = run(layer, torch.randn(SHAPE), regions)
        assert torch.isfinite(y).all()


@pytest.mark.parametrize(
    ("layer", "shapes", "words"),
    [
        (body(0, 2), [SHAPE, (4, 5)], "pooled_h must be > 0"),
        (body(2, 0), [SHAPE, (4, 5)], "pooled_w must be > 0"),
        (body(2, 2), [SHAPE, (4, 4)], r"ROI layer C x W x H must be == 5.*\(4, 4\)"),
        (body(2, 2), [SHAPE, (5,)], "ROI layer C x W x H must be == 5"),
        (body(2, 2), [(2, 3, 8), (4, 5)], "Input must have 4 axes"),
        (body(2, 2), [SHAPE], r"takes 2 bottom blob\(s\)"),
        (body(4000000000, 4000000000), [SHAPE, (4, 5)], "top 'y0' is too large"),
    ],
)
def test_mistake_is_reported(layer, shapes, words):
    with pytest.raises(NetError, match=words):
        make_layer(layer, *shapes)
