"""The solver with a teacher in the net."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from caffe_kd.core.errors import NetError, WeightsError
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto.binary import read_weights, write_weights
from caffe_kd.solver.solver import Solver
from tests.solver.training import (
    DISTIL,
    DISTILLER,
    SETTINGS,
    STUDENT,
    TEACHER,
    assert_same_weights,
    lines_of,
    make_solver,
    solved,
    weights_of,
    write_teacher,
)

# The log prints six digits.
PRINTED = 1e-5


def teacher_blobs(solver: Solver) -> dict[str, list[np.ndarray]]:
    return {
        name.removeprefix("teacher/"): blobs
        for name, blobs in solver.net.weights().items()
        if name.startswith("teacher/")
    }


def test_training_leaves_the_teacher_bit_identical(folder):
    written = write_teacher(folder)
    solver = solved(DISTIL + "momentum: 0.9 weight_decay: 0.1 max_iter: 10")
    trained = teacher_blobs(solver)
    assert sorted(trained) == ["ip", "ip1", "norm"]
    assert_same_weights(trained, {name: written[name] for name in trained})
    assert not np.array_equal(weights_of(solver)["ip"][0], weights_of(make_solver(DISTIL))["ip"][0])


def test_gradient_never_reaches_the_teacher(folder):
    for more in ("", "propagate_down: true propagate_down: true"):
        Path("distiller.prototxt").write_text(DISTILLER.replace("include", f"{more} include", 1))
        solver = make_solver(DISTIL)
        solver.step(1)
        for param in solver.net.params:
            is_teacher = param.layer.name.startswith("teacher/")
            assert (param.blob.grad is None) == is_teacher, param.layer.name
        assert not solver.net.blobs["teacher/ip"].requires_grad


def test_teacher_stays_in_test_while_the_student_trains(folder):
    """Its BatchNorm uses its statistics, its Dropout drops nothing."""
    solver = make_solver(DISTIL)
    for _ in range(3):
        solver.step(1)
        blobs, weights = solver.net.blobs, write_teacher(folder)
        x = blobs["data"].numpy().astype(np.float64)
        y = x @ weights["ip1"][0].T + weights["ip1"][1]
        mean, var, scale = weights["norm"]
        y = np.maximum((y - mean / scale) / np.sqrt(var / scale + 1e-5), 0)
        y = y @ weights["ip"][0].T + weights["ip"][1]
        np.testing.assert_allclose(blobs["teacher/ip"].numpy(), y, rtol=1e-5, atol=1e-5)


def test_objective_is_the_students_loss_and_the_distilling_loss(folder):
    solver = solved(DISTIL + "display: 1 max_iter: 1")
    outputs = solver.log.matching("Train net output")
    assert [line.split(" = ")[0].split()[-1] for line in outputs] == ["kd", "loss"]
    values = [float(line.split(" = ")[1].split()[0]) for line in outputs]
    (shown,) = solver.log.matching(r"iters\), loss")
    assert float(shown.split()[-1]) == pytest.approx(sum(values), rel=PRINTED)


def test_test_net_has_no_teacher(folder):
    solver = solved(DISTIL + "test_iter: 3 test_interval: 3")
    assert "teacher/ip" not in solver.test_nets[0].blobs
    assert {line.split()[4] for line in solver.log.matching("Test net output")} == {
        "accuracy",
        "loss",
    }


def test_teacher_in_the_test_net_has_its_weights_too(folder):
    Path("distiller.prototxt").write_text(DISTILLER.replace("include { phase: TRAIN }", ""))
    solver = make_solver(DISTIL + "test_iter: 3 test_interval: 3")
    written = write_teacher(folder)
    tested = solver.test_nets[0].weights()
    for name in ("ip1", "norm", "ip"):
        for blob, value in zip(tested[f"teacher/{name}"], written[name], strict=True):
            assert np.array_equal(blob, value)
    solver.solve()
    assert math.isfinite(solver.test_all()[0]["kd"][0])


@pytest.mark.parametrize(
    ("type", "more"),
    [
        ("DistillingLoss", ""),
        ("DISTLoss", ""),
        ("KnowledgeDistillation", ""),
        ("HintLoss", "loss_weight_schedule { point { value: 1 } }"),
    ],
)
def test_student_and_teacher_exchanged_is_reported(folder, type, more):
    exchanged = DISTILLER.replace('"ip" bottom: "teacher/ip"', '"teacher/ip" bottom: "ip"')
    Path("distiller.prototxt").write_text(exchanged.replace('"DistillingLoss"', f'"{type}" {more}'))
    words = "no layer before 'teacher/ip' learns, but layers before 'ip' would"
    with pytest.raises(NetError, match=rf"^distiller.prototxt:2: layer 'kd' \({type}\): {words}"):
        make_solver(DISTIL)


@pytest.mark.parametrize(
    "settings", ["loss_weight: 0", "propagate_down: true propagate_down: true"]
)
def test_student_and_teacher_exchanged_may_be_where_it_does_no_harm(folder, settings):
    exchanged = DISTILLER.replace('"ip" bottom: "teacher/ip"', '"teacher/ip" bottom: "ip"')
    Path("distiller.prototxt").write_text(exchanged.replace("include", f"{settings} include"))
    assert make_solver(DISTIL).net.node_of("kd") is not None


def test_resumed_student_goes_on_with_its_teacher(folder):
    Path("net.prototxt").write_text(STUDENT.replace("batch_size: 4", "batch_size: 5"))
    settings = DISTIL + "momentum: 0.9 snapshot: 4 max_iter: 8 "
    whole = solved(settings)
    again = make_solver(settings)
    again.solve("solver_iter_4.solverstate")
    for got, want in zip(weights_of(again)["ip"], weights_of(whole)["ip"], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)
    assert_same_weights(teacher_blobs(again), teacher_blobs(whole))


def test_student_alone_takes_up_the_distilled_weights(folder):
    distilled = solved(DISTIL)
    alone = make_solver(SETTINGS, weights=[str(distilled.snapshots[0])])
    for got, want in zip(weights_of(alone)["ip"], weights_of(distilled)["ip"], strict=True):
        assert np.array_equal(got, want)
    assert "Ignoring source layer kd" in lines_of(alone)


def write_incomplete_teacher(left_out: str) -> None:
    net, weights = pb.NetParameter(), {}
    for layer in read_weights("teacher.caffemodel"):
        net.layer.add(name=layer.name, type=layer.type)
        if layer.name != left_out:
            weights[layer.name] = [np.array(blob) for blob in layer.blobs]
    write_weights("part.caffemodel", net, weights)


def test_teacher_with_a_layer_missing_is_refused(folder):
    write_incomplete_teacher("norm")
    with pytest.raises(WeightsError) as error:
        make_solver(DISTIL.replace("teacher.caffemodel", "part.caffemodel"))
    message = str(error.value)
    want = "part.caffemodel: no weights for layer 'norm' of the teacher 'teacher'"
    assert want in message
    assert "The file has: ip1, ip, unused" in message
    line = TEACHER[: TEACHER.index('name: "norm"')].count("\n") + 1
    assert message.startswith(f"teacher.prototxt:{line}: ")


def test_teacher_lacking_only_what_is_not_used_is_complete(folder):
    write_incomplete_teacher("unused")
    make_solver(DISTIL.replace("teacher.caffemodel", "part.caffemodel"))


def test_teacher_whose_weights_do_not_fit_is_refused(folder):
    Path("teacher.prototxt").write_text(TEACHER.replace("num_output: 6", "num_output: 5"))
    with pytest.raises(WeightsError) as error:
        make_solver(DISTIL)
    message = str(error.value)
    assert "layer 'teacher/ip1' (InnerProduct): Cannot copy param 0 weights" in message
    assert message.startswith("teacher.prototxt:")


def test_seed_rules_the_distilled_run_too(folder):
    one, same = solved(DISTIL), solved(DISTIL)
    assert_same_weights(weights_of(one), weights_of(same))
