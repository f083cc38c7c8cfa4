from __future__ import annotations

import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, golden_case, gradcheck, layer_net, make_layer, run


@pytest.mark.parametrize("name", ["scale", "scale_axis0_all", "scale_two_bottoms"])
def test_scale_equals_the_original(name):
    golden_case(name)


def test_factor_is_one_and_offset_zero_unless_filled():
    layer = make_layer('type: "Scale" scale_param { bias_term: true }', (2, 3, 4))
    assert [b.tolist() for b in layer.blobs] == [[1, 1, 1], [0, 0, 0]]
    assert len(make_layer('type: "Scale"', (2, 3, 4)).blobs) == 1


@pytest.mark.parametrize(
    ("param", "shape", "blob"),
    [
        ("", (2, 3, 4), (3,)),
        ("axis: 0 num_axes: -1", (2, 3, 4), (2, 3, 4)),
        ("axis: 1 num_axes: 2", (2, 3, 4, 5), (3, 4)),
        ("axis: -1", (2, 3, 4), (4,)),
        ("num_axes: 0", (2, 3), ()),
        ("", (2, 3), (3,)),
    ],
)
def test_shape_and_gradient(param, shape, blob):
    body = (
        f'type: "Scale" scale_param {{ {param} bias_term: true filler {{ value: 2 }} '
        "bias_filler { value: -1 } }"
    )
    layer = make_layer(body, shape)
    assert layer.blob_shapes == [blob, blob]
    x = torch.randn(shape)
    assert torch.equal(run(layer, x)[0], x * 2 - 1)
    gradcheck(layer, x)
    if blob[:1] != shape[:1] or not blob:  # else the blob is made for this batch alone
        check_onnx(layer_net(body, shape, phase=pb.TEST))


def test_second_bottom_is_the_factor_and_the_offset_the_only_blob():
    layer = make_layer(
        'type: "Scale" scale_param { axis: 0 bias_term: true bias_filler { value: 3 } }',
        (2, 3),
        (2,),
    )
    assert layer.blob_shapes == [(2,)]
    x, s = torch.randn(2, 3), torch.randn(2)
    torch.testing.assert_close(run(layer, x, s)[0], x * s[:, None] + 3)
    gradcheck(layer, x, s)


@pytest.mark.parametrize(
    ("param", "shapes", "words"),
    [
        ("num_axes: 3", [(2, 3, 4)], "scale blob's shape extends past bottom"),
        ("num_axes: -2", [(2, 3, 4)], "num_axes must be non-negative, or -1"),
        ("axis: 3", [(2, 3, 4)], "axis is out of range for a bottom of 3 axes"),
        ("", [(2, 3, 4), (4,)], "dimension mismatch between bottom"),
    ],
)
def test_mistake_is_reported(param, shapes, words):
    with pytest.raises(NetError, match=words):
        make_layer(f'type: "Scale" scale_param {{ {param} }}', *shapes)


def test_channels_later_must_be_the_blobs():
    with pytest.raises(NetError, match="dimension mismatch between bottom"):
        make_layer('type: "Scale"', (2, 3, 4)).top_shapes([(2, 4, 4)])


def test_onnx_of_two_bottoms_equals_forward():
    body = 'type: "Scale" scale_param { axis: 0 }'
    check_onnx(layer_net(body, (2, 3, 4), (2, 3), phase=pb.TEST))
