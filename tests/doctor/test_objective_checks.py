"""Each check of what a distillation minimises: a file that it speaks of, and one it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.doctor.examining import (
    FREEZE,
    INPUT,
    IP,
    NET,
    SOLVER,
    assert_distinguishes,
    found,
    write,
)

TEACHER = IP.replace('name: "ip"', 'name: "t"').replace('top: "ip"', 'top: "t"')
FROZEN = TEACHER.replace("inner_product_param", f"{FREEZE} inner_product_param")
BOTTOMS = 'bottom: "ip" bottom: "t"'


def net(loss: str, teacher: str = FROZEN) -> str:
    return f'name: "n"\n{INPUT}{teacher}{IP}layer {{ name: "kd" {BOTTOMS} top: "kd" {loss} }}\n'


def fork(temperature: float) -> str:
    param = f"knowledge_distillation_param {{ temperature: {temperature} }}"
    return net(f'type: "KnowledgeDistillation" {param}')


KD = net('type: "DistillingLoss"')
DIVERGENCE = """layer { name: "d" type: "Eltwise" bottom: "ip" bottom: "t" top: "d" }
layer { name: "mean" type: "Reduction" bottom: "d" top: "mean" loss_weight: 1
  reduction_param { operation: MEAN REST } }
"""
BY_RECORD = f'name: "n"\n{INPUT}{FROZEN}{IP}{DIVERGENCE}'
IMAGES = """layer { name: "images" type: "Data" top: "data" top: "label"
  transform_param { TRANSFORM } data_param { source: "gone" batch_size: 4 } }
layer { name: "outputs" type: "HDF5Data" top: "t" hdf5_data_param { source: "gone" batch_size: 4 } }
"""
RECORDED = f'name: "n"\n{IMAGES}{IP}layer {{ name: "kd" type: "DistillingLoss" {BOTTOMS} }}\n'

CASES = [
    ("temperature_in_forks", "note", "lacks the factor 4^2 = 16", fork(4), fork(1)),
    (
        "temperature_in_forks",
        "warning",
        "divided by 4^2 = 16, and loss_weight is 1",
        net('type: "TempSoftmaxCrossEntropyLoss" tempsoftmax_param { temperature: 4 }'),
        net(
            'type: "TempSoftmaxCrossEntropyLoss" tempsoftmax_param { temperature: 4 } '
            "loss_weight: 16"
        ),
    ),
    (
        "mean_over_classes",
        "warning",
        "loss_weight 0.2 is one over its 5 classes",
        net('type: "DistillingLoss" loss_weight: 0.2'),
        KD,
    ),
    (
        "mean_over_classes",
        "warning",
        "the softmax is over its 4 samples",
        net('type: "DistillingLoss" distilling_loss_param { axis: 0 }'),
        KD,
    ),
    (
        "mean_over_classes",
        "warning",
        "averages over 5 values of a sample",
        BY_RECORD.replace("REST", ""),
        BY_RECORD.replace("REST", "").replace(f"{FREEZE} ", ""),
    ),
    (
        "term_without_effect",
        "warning",
        "loss_weight_schedule is 0 in all iterations",
        net('type: "DistillingLoss" loss_weight_schedule { point { value: 0 } }'),
        net(
            'type: "DistillingLoss" loss_weight_schedule { point { value: 0 } '
            "point { iter: 0 value: 1 } }"
        ).replace("point { value: 0 } ", ""),
    ),
    (
        "term_without_effect",
        "error",
        "no gradient of it reaches the layers that make 'ip'",
        net('type: "DistillingLoss" propagate_down: [false, false]'),
        KD,
    ),
    (
        "softmax_twice",
        "warning",
        "its bottom 't' is the softmax of",
        net('type: "DISTLoss"', FROZEN.replace('top: "t"', 'top: "z"')
            + 'layer { name: "p" type: "Softmax" bottom: "z" top: "t" }\n'),
        net('type: "DISTLoss"'),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("check", "severity", "words", "bad", "good"), CASES)
def test_check_speaks_of_one_net_and_is_silent_on_another(
    tmp_path: Path, check: str, severity: str, words: str, bad: str, good: str
) -> None:
    assert_distinguishes(tmp_path, check, severity, words, bad, good)


def test_decay_on_teacher_needs_weight_decay_and_an_lr_mult(tmp_path: Path) -> None:
    solver = SOLVER + "weight_decay: 0.5\n"
    check = "decay_on_teacher"
    path = write(tmp_path, solver=solver, net=net('type: "DistillingLoss"', TEACHER))
    assert [what for _, what in found(path, check)] == [
        "layer 't' (InnerProduct): weight_decay 0.5 shrinks it, and no gradient compensates"
    ]
    frozen = write(tmp_path, solver=solver, net=KD)
    assert found(frozen, check) == []
    write(tmp_path, solver=SOLVER, net=net('type: "DistillingLoss"', TEACHER))
    assert found(path, check) == []
    trained = net('type: "DistillingLoss" propagate_down: [true, true]', TEACHER)
    write(tmp_path, solver=solver, net=trained)
    assert found(path, check) == []


@pytest.mark.parametrize("transform", ["mirror: true", "crop_size: 5", "jitter: 2"])
def test_recorded_outputs_of_other_crops(tmp_path: Path, transform: str) -> None:
    check = "recorded_outputs_of_other_crops"
    shapes = {"data": (3, 9, 9), "t": (5,)}
    path = write(tmp_path, net=RECORDED.replace("TRANSFORM", transform))
    assert [severity for severity, _ in found(path, check, shapes=shapes)] == ["warning"]
    write(tmp_path, net=RECORDED.replace("TRANSFORM", "scale: 0.5"))
    assert found(path, check, shapes=shapes) == []


SOLVER_WITH_TEACHER = SOLVER + 'teacher { net: "net.prototxt" } distiller_net: "distiller.prototxt"'
DATA = """layer { name: "d" type: "Data" top: "data" top: "label" transform_param { TRANSFORM }
  data_param { source: "gone" batch_size: 4 } }
"""
DISTILLER = """layer { name: "kd" type: "DistillingLoss" bottom: "ip" bottom: "teacher/ip" RULE }"""


def distillation(tmp_path: Path, transform: str = "", rule: str = "") -> Path:
    return write(
        tmp_path,
        solver=SOLVER_WITH_TEACHER,
        net=NET.replace(INPUT, DATA.replace("TRANSFORM", transform)),
        distiller=DISTILLER.replace("RULE", rule),
    )


def test_teacher_not_cached_where_images_change(tmp_path: Path) -> None:
    shapes = {"": (3, 9, 9)}
    for transform, wanted in (("mirror: true", 1), ("", 0)):
        path = distillation(tmp_path, transform)
        occurrences = found(path, "teacher_not_cached", shapes=shapes)
        assert len(occurrences) == wanted
        assert all("mirror before the teacher" in what for _, what in occurrences)


def test_loss_not_in_train_is_an_error(tmp_path: Path) -> None:
    shapes = {"": (3, 9, 9)}
    for rule, wanted in (("include { phase: TRAIN stage: 'kd' }", 1), ("", 0)):
        occurrences = found(distillation(tmp_path, rule=rule), "loss_not_in_train", shapes=shapes)
        assert len(occurrences) == wanted
        assert all("'kd' (DistillingLoss) is left out of TRAIN" in what for _, what in occurrences)
