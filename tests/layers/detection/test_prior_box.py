from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, layer_net, make_layer, run

PLANE, IMAGE = (2, 4, 3, 5), (2, 3, 60, 90)

# Coordinates are of the order of 1; the last bit of a root may be another than in C.
ATOL = 3e-7


def body(param: str) -> str:
    return f'type: "PriorBox" prior_box_param {{ {param} }}'


def plain(sizes, plane=PLANE, image=(60, 90), step=(20, 18), offset=0.5) -> np.ndarray:
    """Lay boxes of the given (width, height) around each place of the plane."""
    boxes = []
    for h in range(plane[2]):
        for w in range(plane[3]):
            x, y = (w + offset) * step[1], (h + offset) * step[0]
            for width, height in sizes:
                boxes.append(
                    [
                        (x - width / 2) / image[1],
                        (y - height / 2) / image[0],
                        (x + width / 2) / image[1],
                        (y + height / 2) / image[0],
                    ]
                )
    return np.array(boxes)


def priors(param: str, plane=PLANE, image=IMAGE) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes and variances, (priors, 4) each."""
    (y,) = run(make_layer(body(param), plane, image), torch.zeros(plane), torch.zeros(image))
    assert y.shape[:2] == (1, 2) and y.dtype == torch.float32
    boxes, variances = y.reshape(2, -1, 4).numpy()
    return boxes, variances


R2, R3 = math.sqrt(2), math.sqrt(3)


@pytest.mark.parametrize(
    ("param", "sizes"),
    [
        ("min_size: 30", [(30, 30)]),
        ("min_size: 30 max_size: 40", [(30, 30), (math.sqrt(1200),) * 2]),
        (
            "min_size: 30 max_size: 40 aspect_ratio: 2",
            [(30, 30), (math.sqrt(1200),) * 2, (30 * R2, 30 / R2), (30 / R2, 30 * R2)],
        ),
        ("min_size: 30 aspect_ratio: 3 flip: false", [(30, 30), (30 * R3, 30 / R3)]),
        (
            "min_size: 30 min_size: 10 max_size: 40 max_size: 11 aspect_ratio: 2 flip: false",
            [
                *[(30, 30), (math.sqrt(1200),) * 2, (30 * R2, 30 / R2)],
                *[(10, 10), (math.sqrt(110),) * 2, (10 * R2, 10 / R2)],
            ],
        ),
        # One and what is there already, turned round too, makes no further box.
        (
            "min_size: 30 aspect_ratio: 1 aspect_ratio: 2 aspect_ratio: 0.5 aspect_ratio: 2",
            [(30, 30), (30 * R2, 30 / R2), (30 / R2, 30 * R2)],
        ),
        ("min_size: 30.9 max_size: 40.9", [(30, 30), (math.sqrt(1200),) * 2]),
    ],
)
def test_boxes_around_each_place(param, sizes):
    boxes, _ = priors(param)
    np.testing.assert_allclose(boxes, plain(sizes), rtol=0, atol=ATOL)


@pytest.mark.parametrize(
    ("param", "expected"),
    [
        ("img_size: 80", {"image": (80, 80), "step": (80 / 3, 16)}),
        ("img_h: 30 img_w: 45", {"image": (30, 45), "step": (10, 9)}),
        ("step: 7.5", {"step": (7.5, 7.5)}),
        ("step_h: 4 step_w: 6", {"step": (4, 6)}),
        ("offset: 0.25", {"offset": 0.25}),
        ("img_size: 80 step: 8 offset: 0", {"image": (80, 80), "step": (8, 8), "offset": 0}),
    ],
)
def test_image_step_and_offset(param, expected):
    boxes, _ = priors(f"min_size: 30 {param}")
    np.testing.assert_allclose(boxes, plain([(30, 30)], **expected), rtol=0, atol=ATOL)


def test_clip_keeps_the_boxes_in_the_image():
    boxes, _ = priors("min_size: 30 clip: true")
    np.testing.assert_allclose(boxes, plain([(30, 30)]).clip(0, 1), rtol=0, atol=ATOL)
    assert boxes.min() == 0 and boxes.max() == 1


@pytest.mark.parametrize(
    ("param", "want"),
    [
        ("", [0.1] * 4),
        ("variance: 0.3", [0.3] * 4),
        ("variance: 0.1 variance: 0.2 variance: 0.3 variance: 0.4", [0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_variances_are_repeated_for_each_box(param, want):
    boxes, variances = priors(f"min_size: 30 {param}")
    assert np.array_equal(variances, np.tile(np.float32(want), (len(boxes), 1)))


def test_number_of_priors_of_ssd300():
    """The published net has 8732, in planes of 38, 19, 10, 5, 3 and 1."""
    counts = {38: 1, 19: 2, 10: 2, 5: 2, 3: 1, 1: 1}
    total = 0
    for side, ratios in counts.items():
        more = "".join(f" aspect_ratio: {r}" for r in (2, 3)[:ratios])
        param = f"min_size: 30 max_size: 60 {more}"
        total += len(priors(param, (1, 4, side, side), (1, 3, 300, 300))[0])
    assert total == 8732


def test_batch_and_size_may_change():
    layer = make_layer(body("min_size: 30"), PLANE, IMAGE)
    (y,) = run(layer, torch.zeros(5, 4, 2, 2), torch.zeros(5, 3, 40, 20))
    want = plain([(30, 30)], (5, 4, 2, 2), (40, 20), (20, 10))
    np.testing.assert_allclose(y[0, 0].reshape(-1, 4), want, rtol=0, atol=ATOL)


def test_top_has_the_bottoms_type_and_no_gradient():
    layer = make_layer(body("min_size: 30"), PLANE, IMAGE)
    y = layer(torch.zeros(PLANE, dtype=torch.float64, requires_grad=True), torch.zeros(IMAGE))
    assert y.dtype == torch.float64 and not y.requires_grad


def test_onnx():
    check_onnx(layer_net(body("min_size: 30 aspect_ratio: 2"), PLANE, IMAGE, phase=pb.TEST))


@pytest.mark.parametrize(
    ("param", "words"),
    [
        ("", "must provide min_size"),
        ("min_size: 0", "min_size must be positive"),
        ("min_size: inf", "min_size must be positive"),
        ("min_size: nan", "min_size must be positive"),
        ("min_size: 9 min_size: 8 max_size: 10", "max_size must be given once per min_size"),
        ("min_size: 9 max_size: 9", "max_size must be greater than min_size"),
        ("min_size: 9 max_size: inf", "max_size must be greater than min_size"),
        ("min_size: 9 aspect_ratio: 0", "aspect_ratio must be positive"),
        ("min_size: 9 aspect_ratio: nan", "aspect_ratio must be positive"),
        ("min_size: 9 variance: 1 variance: 1", "Must and only provide 4 variance"),
        ("min_size: 9 variance: 0", "variance must be positive"),
        ("min_size: 9 img_size: 9 img_h: 9 img_w: 9", "Either img_size or img_h/img_w"),
        ("min_size: 9 img_h: 9", "img_w should be larger than 0"),
        ("min_size: 9 img_size: 0", "img_size should be larger than 0"),
        ("min_size: 9 step: 9 step_h: 9 step_w: 9", "Either step or step_h/step_w"),
        ("min_size: 9 step: 0", "step should be larger than 0"),
        ("min_size: 9 step_h: 3 step_w: -1", "step_w should be larger than 0"),
    ],
)
def test_mistake_is_reported(param, words):
    with pytest.raises(NetError, match=words):
        make_layer(body(param), PLANE, IMAGE)


@pytest.mark.parametrize("shapes", [[(2, 4), IMAGE], [PLANE, (2, 3)]])
def test_bottom_without_a_plane_is_refused(shapes):
    with pytest.raises(NetError, match="each bottom must have 4 axes"):
        make_layer(body("min_size: 9"), *shapes)


@pytest.mark.parametrize(
    "param",
    [
        "min_size: 9 " + "".join(f"aspect_ratio: {1 + i / 999} " for i in range(20000)),
        "min_size: 9 " * 1001,
        "min_size: 9 " * 600 + "aspect_ratio: 2",
    ],
)
def test_absurd_number_of_boxes_is_refused_at_once(param):
    start = time.process_time()
    with pytest.raises(NetError, match="at most 1000 boxes at a position"):
        make_layer(body(param), PLANE, IMAGE)
    assert time.process_time() - start < 10  # seconds; all pairs of ratios would take minutes
