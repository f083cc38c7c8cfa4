import math

import pytest

from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import schedule, text


def points(prototxt):
    return text.parse(prototxt, pb.ScheduleParameter(), "net.prototxt")


def values(prototxt, iterations):
    return [schedule.value_at(points(prototxt), i) for i in iterations]


TWO = "point { iter: 10 value: 2 } point { iter: 20 value: 6 }"


@pytest.mark.parametrize(
    ("prototxt", "expected"),
    [
        ("point { value: 3 }", [3, 3, 3, 3, 3, 3]),
        (TWO, [2, 2, 3, 4, 6, 6]),
        (f"policy: LINEAR {TWO}", [2, 2, 3, 4, 6, 6]),
        (f"policy: STEP {TWO}", [2, 2, 2, 2, 6, 6]),
        (f"policy: COSINE {TWO}", [2, 2, 2 + 2 * (1 - math.sqrt(0.5)), 4, 6, 6]),
        (
            f"policy: SIGMOID {TWO}",
            [2, 2, 2 + 4 * math.exp(-5 * 0.75**2), 2 + 4 * math.exp(-1.25), 6, 6],
        ),
    ],
)
def test_value_at_is_the_policys(prototxt, expected):
    got = values(prototxt, [0, 10, 12.5, 15, 20, 1000])
    assert got == pytest.approx(expected)


def test_value_at_of_a_warm_up_is_the_part_of_it_that_is_done():
    got = values("point { iter: 0 value: 0 } point { iter: 20 value: 1 }", range(30))
    assert got == pytest.approx([min(epoch / 20, 1) for epoch in range(30)])


def test_value_at_of_stages_begins_each_at_its_iteration():
    got = values(
        "policy: STEP point { value: 1 } point { iter: 2 value: 0 } point { iter: 3 value: 5 }",
        range(5),
    )
    assert got == [1, 1, 0, 5, 5]


def test_value_at_passes_through_every_point():
    for policy in ("LINEAR", "COSINE", "SIGMOID", "STEP"):
        got = values(f"policy: {policy} {TWO} point {{ iter: 27 value: -1 }}", [10, 20, 27])
        assert got == [2, 6, -1]


def test_stage_at_counts_the_points_reached():
    three = points(TWO + "point { iter: 30 value: 0 }")
    assert [schedule.stage_at(three, i) for i in (0, 10, 19, 20, 29, 30, 99)] == [
        *(0, 0, 0),
        *(1, 1),
        *(2, 2),
    ]


@pytest.mark.parametrize(
    ("prototxt", "words"),
    [
        ("", "at least one point"),
        ("point { iter: 3 }", "a finite value in each point"),
        ("point { value: nan }", "a finite value in each point"),
        ("point { value: 1 } point { value: 2 }", "rising iter, not 0, 0"),
        ("point { iter: 5 value: 1 } point { iter: 4 value: 2 }", "rising iter, not 5, 4"),
    ],
)
def test_fault_says_what_is_wrong(prototxt, words):
    assert words in schedule.fault(points(prototxt))


def test_fault_of_a_right_schedule_is_none():
    assert schedule.fault(points(TWO)) is None


@pytest.mark.parametrize(
    ("prototxt", "iteration", "words"),
    [
        ("point { value: 3 }", 7, "3 from here on"),
        (TWO, 0, "2 until iteration 10, then linearly to 6 in iteration 20"),
        (TWO, 10, "2 linearly to 6 in iteration 20"),
        (f"policy: COSINE {TWO}", 15, "4 along a cosine to 6 in iteration 20"),
        (f"policy: SIGMOID {TWO}", 15, "3.14602 along a sigmoid to 6 in iteration 20"),
        (f"policy: STEP {TWO}", 0, "2 until iteration 20"),
        (TWO, 20, "6 from here on"),
        ("point { value: 1 } point { iter: 9 value: 1 }", 0, "1 until iteration 9"),
    ],
)
def test_outlook_says_how_it_goes_on(prototxt, iteration, words):
    assert schedule.outlook(points(prototxt), iteration) == words


def test_stretch_moves_the_points_of_every_schedule_in_a_message():
    layer = text.parse(
        f'name: "x" loss_weight_schedule {{ {TWO} }} '
        f"distilling_loss_param {{ alpha_schedule {{ {TWO} }} }}",
        pb.LayerParameter(),
    )
    schedule.stretch(layer, 2.5)
    for stretched in (layer.loss_weight_schedule, layer.distilling_loss_param.alpha_schedule):
        assert [(p.iter, p.value) for p in stretched.point] == [(25, 2), (50, 6)]


def test_stretch_keeps_points_apart():
    layer = pb.LayerParameter(loss_weight_schedule=points(TWO))
    schedule.stretch(layer, 0.001)
    assert [p.iter for p in layer.loss_weight_schedule.point] == [0, 1]
    assert schedule.fault(layer.loss_weight_schedule) is None
