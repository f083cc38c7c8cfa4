"""Schedules in training: what is trained, what the log says, and that resuming changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_kd.core.errors import NetError
from tests.solver.training import (
    DISTIL,
    SETTINGS,
    assert_same_weights,
    lines_of,
    make_solver,
    weights_of,
)

STAGES = "policy: STEP point { value: 1 } point { iter: 3 value: 0 }"
WARM_UP = "point { value: 0 } point { iter: 4 value: 1 }"


pytestmark = pytest.mark.usefixtures("folder")


def write_distiller(settings: str = "", param: str = "") -> None:
    """Write a distiller of one soft term, in both phases."""
    Path("distiller.prototxt").write_text(
        f"""
        layer {{ name: "kd" type: "DistillingLoss" bottom: "ip" bottom: "teacher/ip" top: "kd"
                {settings} distilling_loss_param {{ {param} }} }}
        """
    )


def trained(settings: str = DISTIL, iterations: int = 6):
    solver = make_solver(f"{settings} display: 1 max_iter: {iterations}")
    solver.solve()
    return solver


def weights_shown(solver, phase: str = "Train") -> list[str]:
    lines = [line for line in lines_of(solver) if f"{phase} net output" in line and "kd =" in line]
    return [line.partition("(* ")[2].partition(" =")[0] for line in lines]


def test_loss_weight_of_each_iteration_is_the_schedules():
    write_distiller(f"loss_weight: 4 loss_weight_schedule {{ {WARM_UP} }}")
    # One more than is trained: the pass after the last update is that of iteration 6.
    assert weights_shown(trained()) == ["", "1", "2", "3", "4", "4"]


def test_loss_weight_that_stays_is_the_product():
    write_distiller("loss_weight: 0.5")
    plain = weights_of(trained())
    write_distiller("loss_weight: 0.25 loss_weight_schedule { point { value: 2 } }")
    assert_same_weights(weights_of(trained()), plain)


def test_term_whose_weight_has_become_zero_teaches_no_more():
    write_distiller(f"loss_weight_schedule {{ {STAGES} }}")
    staged = trained(DISTIL + "snapshot: 3 momentum: 0.9")
    write_distiller()
    until = trained(DISTIL + 'snapshot_prefix: "until" momentum: 0.9', iterations=3)
    write_distiller("loss_weight: 0")
    rest = make_solver(DISTIL + 'snapshot_prefix: "rest" momentum: 0.9')
    rest.solve(until.snapshots[1])
    assert_same_weights(weights_of(staged), weights_of(rest))


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_resumed_run_has_the_weights_of_an_uninterrupted_one(stop):
    write_distiller(
        f"loss_weight_schedule {{ {WARM_UP} }}",
        "temperature_schedule { policy: COSINE point { value: 8 } point { iter: 5 value: 2 } }",
    )
    whole = trained(DISTIL + f"snapshot: {stop}")
    resumed = make_solver(DISTIL)
    resumed.solve(f"solver_iter_{stop}.solverstate")
    assert_same_weights(weights_of(resumed), weights_of(whole))


def test_log_tells_each_stage_once():
    write_distiller(
        f"loss_weight_schedule {{ {STAGES} }}",
        "temperature_schedule { point { iter: 1 value: 8 } point { iter: 5 value: 2 } }",
    )
    solver = trained()
    logged = [line for line in lines_of(solver) if line.startswith("Schedule")]
    temperature = "Schedule of layer 'kd', temperature_schedule:"
    assert logged == [
        "Schedule of layer 'kd', loss_weight_schedule: 1 until iteration 3",
        f"{temperature} 8 until iteration 1, then linearly to 2 in iteration 5",
        "Schedule of layer 'kd', loss_weight_schedule: 0 from here on",
        f"{temperature} 2 from here on",
    ]
    resumed = make_solver(DISTIL)
    resumed.solve("solver_iter_6.solverstate")
    logged = [line for line in lines_of(resumed) if line.startswith("Schedule")]
    assert [line.rpartition(": ")[2] for line in logged] == ["0 from here on", "2 from here on"]


def test_test_net_has_the_weight_of_the_iteration_too():
    write_distiller(f"loss_weight: 4 loss_weight_schedule {{ {WARM_UP} }}")
    solver = trained(DISTIL + "test_iter: 1 test_interval: 2")
    assert weights_shown(solver, "Test") == ["", "2", "4", "4"]


def test_loss_behind_the_last_update_has_the_weight_of_max_iter():
    write_distiller(
        "loss_weight_schedule { policy: STEP point { value: 0 } point { iter: 6 value: 1 } }"
    )
    solver = trained(DISTIL)
    assert solver.net.loss_weights["kd"] == 1
    resumed = make_solver(DISTIL + "display: 1")
    resumed.solve("solver_iter_6.solverstate")
    assert resumed.net.loss_weights["kd"] == 1


def test_temperature_of_the_command_line_takes_the_place_of_its_schedule():
    write_distiller(param="temperature: 3")
    plain = weights_of(trained())
    write_distiller(param="temperature_schedule { point { value: 8 } }")
    solver = make_solver(DISTIL, temperature=3)
    solver.solve()
    assert_same_weights(weights_of(solver), plain)
    line = "layer 'kd': temperature 3 from the command line instead of its schedule"
    assert line in lines_of(solver)


def test_schedule_of_a_teachers_layer_is_not_the_students():
    teacher = Path("teacher.prototxt").read_text()
    loss = f'bottom: "label" top: "loss" loss_weight_schedule {{ {WARM_UP} }}'
    Path("teacher.prototxt").write_text(teacher.replace('bottom: "label" top: "loss"', loss))
    write_distiller()
    assert not make_solver(DISTIL).net.schedules


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("loss_weight_schedule { }", "loss_weight_schedule needs at least one point"),
        (
            "loss_weight: 0 loss_weight_schedule { point { value: 1 } }",
            "loss_weight_schedule multiplies a loss_weight, but no top has one",
        ),
    ],
)
def test_schedule_that_cannot_be_is_refused(settings, words):
    write_distiller(settings)
    with pytest.raises(NetError, match=rf"distiller.prototxt:2: layer 'kd' .*: {words}"):
        make_solver(DISTIL)


def test_net_without_a_schedule_has_none():
    solver = make_solver(SETTINGS)
    solver.solve()
    assert not solver.net.schedules
    assert not [line for line in lines_of(solver) if line.startswith("Schedule")]
