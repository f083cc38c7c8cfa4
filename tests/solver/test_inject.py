"""Layers of a student that start from a teacher's."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_kd.core.errors import SolverError, WeightsError
from caffe_kd.proto.binary import read_weights
from tests.solver.training import DISTIL, STUDENT, assert_same_weights, make_solver, weights_of

# The teacher's "ip1" is 6 x 4; the student's "ip" 3 x 4.
DEEPER = STUDENT.replace(
    'layer { name: "accuracy"',
    'layer { name: "stem" type: "InnerProduct" bottom: "data" top: "stem" '
    'inner_product_param { num_output: 6 weight_filler { type: "xavier" } } } '
    'layer { name: "quiet" type: "Silence" bottom: "stem" } layer { name: "accuracy"',
).replace(
    'name: "loss" type: "SoftmaxWithLoss" bottom: "ip"',
    'name: "head" type: "InnerProduct" bottom: "stem" top: "head" inner_product_param { '
    'num_output: 3 weight_filler { type: "xavier" } } } '
    'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "head"',
)


@pytest.fixture(autouse=True)
def _deeper(folder: Path) -> None:
    Path("net.prototxt").write_text(DEEPER)


def teachers() -> dict[str, list]:
    return {x.name: x.blobs for x in read_weights("teacher.caffemodel") if x.blobs}


def test_layer_starts_as_the_teachers_and_learns() -> None:
    solver = make_solver(DISTIL + 'inject { layer: "ip1" to: "stem" }')
    assert_same_weights({"": weights_of(solver)["stem"]}, {"": teachers()["ip1"]})
    solver.step(1)
    assert (weights_of(solver)["stem"][0] != teachers()["ip1"][0]).any()


def test_frozen_layer_stays_the_teachers() -> None:
    settings = (
        'inject { teacher: "teacher" layer: "ip1" to: "stem" freeze: true } weight_decay: 0.1'
    )
    solver = make_solver(DISTIL + settings)
    solver.solve()
    assert_same_weights({"": weights_of(solver)["stem"]}, {"": teachers()["ip1"]})
    assert not solver.plan.student.layer[2].frozen  # what is deployed is an ordinary net


def test_teacher_may_give_layers_alone(folder: Path) -> None:
    settings = DISTIL.replace('distiller_net: "distiller.prototxt"', "")
    solver = make_solver(settings + 'inject { layer: "ip1" to: "stem" }')
    assert "teacher/ip1" not in {x.name for x in solver.net.param.layer}
    assert_same_weights({"": weights_of(solver)["stem"]}, {"": teachers()["ip1"]})


def test_resumed_run_keeps_what_was_learnt() -> None:
    settings = DISTIL + 'inject { layer: "ip1" to: "stem" } max_iter: 6 snapshot: 3'
    make_solver(settings).solve()
    before = Path("solver_iter_6.caffemodel").read_bytes()
    make_solver(settings).solve("solver_iter_3.solverstate")
    assert Path("solver_iter_6.caffemodel").read_bytes() == before


def test_layer_of_another_shape_is_reported_with_both_shapes() -> None:
    with pytest.raises(WeightsError, match=r"solver.prototxt:\d+.*layer 'ip' .*the shapes 6 x 4, 6, the student's 3 x 4, 3\. Give"):  # fmt: skip  # noqa: E501
        make_solver(DISTIL + '\ninject { layer: "ip1" to: "ip" }')


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('layer: "ip2" to: "stem"', "the teacher 'teacher' has no layer 'ip2'.* Did you mean"),
        ('layer: "ip1" to: "steam"', "the student has no layer 'steam'. Did you mean 'stem'"),
        ('teacher: "tacher" layer: "ip1"', "is named 'tacher'. Did you mean 'teacher'"),
        ('layer: "relu" to: "stem"', "has no layer 'relu' with parameters"),
    ],
)
def test_wrong_name_is_reported(entry: str, message: str) -> None:
    with pytest.raises(SolverError, match=rf"solver.prototxt:\d+: inject: .*{message}"):
        make_solver(DISTIL + f"\ninject {{ {entry} }}")
