from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import ExportError, NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import assert_close, check_onnx, gradcheck, layer_net, make_layer, run

SHAPE = (2, 12, 8, 11)  # 3 channels of 2 x 2 bins
REGIONS = [
    [0, 0, 0, 10, 7],  # the whole plane
    [1, 2, 1, 7, 5],
    [1, 3, 3, 3, 3],  # one place
    [0, 6, 6, 2, 2],  # the wrong way round
    [1, -5, -4, 3, 2],  # begins outside
    [0, 8, 6, 30, 20],  # ends outside
    [1, 40, 40, 50, 50],  # all outside
    [0, 2.5, 0.5, 6.5, 4.49],  # halves
    [1, -0.5, -1.5, 3.5, 2.5],
]


def body(output_dim: int = 3, group_size: int = 2, scale: float = 1) -> str:
    return (
        f'type: "PSROIPooling" psroi_pooling_param {{ output_dim: {output_dim} '
        f"group_size: {group_size} spatial_scale: {scale} }}"
    )


def c_round(value: np.float32) -> np.float32:
    """Round as C does: halves away from zero."""
    return np.float32(math.copysign(math.floor(abs(float(value)) + 0.5), value))


def bins(start, end, scale, count, length):
    first = c_round(start) * np.float32(scale)
    last = (c_round(end) + np.float32(1)) * np.float32(scale)
    size = max(last - first, np.float32(0.1)) / np.float32(count)
    for i in range(count):
        low = math.floor(np.float32(i) * size + first)
        high = math.ceil(np.float32(i + 1) * size + first)
        yield min(max(low, 0), length), min(max(high, 0), length)


def plain(x, regions, channels, group, scale):
    y = np.zeros((len(regions), channels, group, group))
    for r, (record, x1, y1, x2, y2) in enumerate(np.float32(regions)):
        for i, (top, bottom) in enumerate(bins(y1, y2, scale, group, x.shape[2])):
            for j, (left, right) in enumerate(bins(x1, x2, scale, group, x.shape[3])):
                if bottom > top and right > left:
                    for d in range(channels):
                        plane = x[int(record), (d * group + i) * group + j]
                        y[r, d, i, j] = plane[top:bottom, left:right].mean()
    return y


@pytest.mark.parametrize(("group", "scale"), [(2, 1), (2, 0.5), (2, 0.0625), (1, 1.7), (3, 1)])
def test_value_is_the_mean_of_the_bin_in_its_own_channel(group, scale):
    shape = (2, 3 * group * group, 8, 11)
    x = np.random.default_rng(0).standard_normal(shape)
    regions = np.float32(REGIONS) / [1, *[scale] * 4]
    layer = make_layer(body(3, group, scale), shape, regions.shape)
    (y,) = run(layer, torch.from_numpy(x).float(), torch.from_numpy(regions).float())
    assert_close(y, plain(x, regions, 3, group, scale))


def test_gradient_is_the_derivative():
    regions = torch.tensor(REGIONS).double()
    layer = make_layer(body(), SHAPE, tuple(regions.shape)).double()
    x = torch.randn(SHAPE).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda value: layer(value, regions), x)
    gradcheck(layer, x[:1], torch.zeros(1, 5))


def test_each_place_of_a_bin_gets_an_equal_share_of_the_gradient():
    x = torch.randn(1, 4, 4, 4, requires_grad=True)
    layer = make_layer(body(1, 2), (1, 4, 4, 4), (1, 5))
    (y,) = run(layer, x, torch.tensor([[0.0, 0, 0, 3, 3]]))
    y.sum().backward()
    want = torch.zeros(1, 4, 4, 4)
    for channel, (rows, columns) in enumerate(
        [(slice(0, 2), slice(0, 2)), (slice(0, 2), slice(2, 4))]
        + [(slice(2, 4), slice(0, 2)), (slice(2, 4), slice(2, 4))]
    ):
        want[0, channel, rows, columns] = 0.25
    assert torch.equal(x.grad, want)


def test_mean_is_exact_far_from_the_planes_corner():
    """Sums of a whole plane of large values must not cost the last bin its digits."""
    x = torch.full((1, 1, 200, 300), 1000.0)
    x[0, 0, -1, -1] = 1000.5
    layer = make_layer(body(1, 1), tuple(x.shape), (1, 5))
    assert layer(x, torch.tensor([[0.0, 299, 199, 299, 199]])).item() == 1000.5


def test_number_of_regions_batch_and_layout_may_change():
    layer = make_layer(body(), SHAPE, (4, 5, 1, 1))
    x = torch.randn(5, 12, 9, 6)
    regions = torch.tensor([[4.0, 1, 1, 5, 7], [0, 0, 0, 2, 2]])
    (y,) = run(layer, x, regions)
    assert_close(y, plain(x.double().numpy(), regions.tolist(), 3, 2, 1))
    assert_close(layer(x.to(memory_format=torch.channels_last), regions), y)


def test_export_is_refused_with_the_reason():
    net = layer_net(body(), SHAPE, (2, 5), phase=pb.TEST)
    with pytest.raises(ExportError, match=r"layer 'L' \(PSROIPooling\) cannot be exported"):
        check_onnx(net)


@pytest.mark.parametrize("record", [-1, 2])
def test_region_of_no_record_is_refused(record):
    layer = make_layer(body(), SHAPE, (1, 5))
    with pytest.raises(NetError, match=f"roi_batch_ind.*Received: roi_batch_ind={record}"):
        layer(torch.randn(SHAPE), torch.tensor([[float(record), 0, 0, 2, 2]]))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, -1e30])
def test_absurd_coordinates_do_no_harm(value):
    layer = make_layer(body(), SHAPE, (1, 5))
    for place in range(1, 5):
        regions = torch.tensor([[0.0, 1, 1, 3, 3]])
        regions[0, place] = value
        assert torch.isfinite(run(layer, torch.randn(SHAPE), regions)[0]).all()


@pytest.mark.parametrize(
    ("layer", "shapes", "words"),
    [
        (body(0, 2), [SHAPE, (4, 5)], "output_dim must be > 0"),
        (body(3, 0), [SHAPE, (4, 5)], "group_size must be > 0"),
        (body(3, -2), [SHAPE, (4, 5)], "group_size must be > 0"),
        ('type: "PSROIPooling"', [SHAPE, (4, 5)], "spatial_scale must be > 0"),
        (body(3, 3), [SHAPE, (4, 5)], "input channel number does not match layer parameters"),
        (body(), [SHAPE, (4, 4)], "ROI layer C x W x H must be == 5"),
        (body(), [(2, 12, 8), (4, 5)], "Input must have 4 axes"),
    ],
)
def test_mistake_is_reported(layer, shapes, words):
    with pytest.raises(NetError, match=words):
        make_layer(layer, *shapes)
