"""Early stopping, and the best weights so far."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffe_kd.core.errors import SolverError
from caffe_kd.proto.binary import read_weights
from caffe_kd.solver.callbacks.metric_monitor import MetricMonitor
from caffe_kd.solver.solver import Solver
from tests.helpers import make_net
from tests.solver.training import (
    SETTINGS,
    assert_same_weights,
    lines_of,
    make_solver,
    weights_of,
)

TESTS = SETTINGS + "test_iter: 2 test_interval: 2 momentum: 0.9 \n"
OUTPUTS = make_net(
    """
    layer { name: "in" type: "Input" top: "x" top: "y"
      input_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }
    layer { name: "accuracy" type: "Accuracy" bottom: "x" bottom: "y" top: "accuracy" }
    layer { name: "per" type: "Accuracy" bottom: "x" bottom: "y" top: "all" top: "per" }
    layer { name: "loss" type: "SoftmaxWithLoss" bottom: "x" bottom: "y" top: "loss" }
    """
)


def stopping_state(solver: Solver) -> dict[str, np.ndarray]:
    return next(c.state() for c in solver.callbacks if c.name == "early_stopping")


def noted(best: MetricMonitor, *values: float) -> list[bool]:
    """Say for each value whether it was the best so far."""
    return [best.update(i, [{best.output: [value]}]) for i, value in enumerate(values)]


def test_accuracy_is_better_where_higher_and_loss_where_lower() -> None:
    accuracy, loss = MetricMonitor(OUTPUTS, 0, "accuracy"), MetricMonitor(OUTPUTS, 0, "loss")
    assert noted(accuracy, 0.2, 0.1, 0.2, 0.3) == [True, False, False, True]
    assert noted(loss, 0.2, 0.1, 0.2, 0.1) == [True, True, False, False]
    assert (accuracy.value, accuracy.iteration, accuracy.tests) == (0.3, 3, 0)
    assert (loss.value, loss.iteration, loss.tests) == (0.1, 1, 2)


def test_output_that_is_named_is_better_where_lower() -> None:
    best = MetricMonitor(OUTPUTS, 0, "accuracy", lower=["accuracy"])
    assert noted(best, 0.2, 0.1, 0.2, 0.3) == [True, True, False, False]


def test_error_rate_of_a_users_own_making_is_watched_as_the_solver_says(folder: Path) -> None:
    error = """layer { name: "error" type: "Power" bottom: "accuracy" top: "error"
      power_param { scale: -1 shift: 1 } include { phase: TEST } }"""
    net = Path("net.prototxt")
    net.write_text(net.read_text() + error)
    best = {}
    for named in ("", 'lower_is_better: "error"'):
        solver = make_solver(TESTS + f'snapshot_best: "error" max_iter: 12 {named}')
        solver.solve()
        line = solver.log.matching("^Best error so far")[-1]
        best[named] = float(line.split(", ")[1].split(";")[0])
    assert best['lower_is_better: "error"'] < best[""]


def test_change_within_min_delta_is_not_better() -> None:
    assert noted(MetricMonitor(OUTPUTS, 0, "accuracy", 0.1), 0.2, 0.25, 0.29, 0.31) == [
        True,
        False,
        False,
        True,
    ]


def test_nan_is_never_better() -> None:
    best = MetricMonitor(OUTPUTS, 0, "loss")
    assert noted(best, np.nan, 2.0, np.nan, 1.0) == [False, True, False, True]


def test_iteration_that_is_tested_again_counts_once() -> None:
    best = MetricMonitor(OUTPUTS, 0, "loss")
    noted(best, 1.0, 2.0)
    again = MetricMonitor(OUTPUTS, 0, "loss")
    again.restore(best.state())
    assert not again.update(1, [{"loss": [0.5]}])
    assert (again.value, again.iteration, again.tests) == (1.0, 0, 1)


def best_lines(solver) -> list[str]:
    return [line for line in lines_of(solver) if line.startswith(("Best ", "Early stopping"))]


def test_snapshot_best_holds_the_weights_of_the_lowest_loss(folder: Path) -> None:
    solver = make_solver(TESTS + 'snapshot_best: "loss" max_iter: 12')
    losses, weights = [], []
    test = solver.test

    def watching(index: int) -> dict[str, list[float]]:
        means = test(index)
        losses.append(means["loss"][0])
        weights.append(weights_of(solver))
        return means

    solver.test = watching
    solver.solve()
    best = int(np.argmin(losses))
    found = {x.name: x.blobs for x in read_weights("solver_best.caffemodel") if x.blobs}
    assert_same_weights(found, weights[best])
    assert len(best_lines(solver)) == sum(
        loss < min(losses[:i], default=np.inf) for i, loss in enumerate(losses)
    )


def test_early_stopping_ends_the_run_after_patience_tests(folder: Path) -> None:
    # Nothing learns, so that no test is better than the first.
    settings = TESTS.replace("base_lr: 0.1", "base_lr: 0") + (
        'early_stopping { output: "accuracy" patience: 3 } max_iter: 100'
    )
    solver = make_solver(settings)
    solver.solve()
    assert solver.iter == 6
    assert not solver.stopped
    assert Path("solver_iter_6.solverstate").exists()
    (line,) = best_lines(solver)
    assert "accuracy of test net (#0) has not improved in 3 tests; " in line
    assert "the highest was " in line
    assert line.endswith("in iteration 0")
    assert lines_of(solver)[-1] == "Optimization Done."
    resumed = make_solver(settings)
    resumed.solve("solver_iter_6.solverstate")
    assert resumed.iter == 6


@pytest.mark.parametrize("at", [3, 4])
def test_resumed_run_stops_where_the_whole_one_does(folder: Path, at: int) -> None:
    settings = TESTS.replace("base_lr: 0.1", "base_lr: 0") + (
        'early_stopping { output: "loss" patience: 4 } snapshot_best: "loss" snapshot: 1 '
        "max_iter: 100"
    )
    whole = make_solver(settings)
    whole.solve()
    state = stopping_state(whole)
    resumed = make_solver(settings)
    resumed.solve(f"solver_iter_{at}.solverstate")
    assert resumed.iter == whole.iter < 100
    again = stopping_state(resumed)
    assert {k: v.tolist() for k, v in again.items()} == {k: v.tolist() for k, v in state.items()}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('snapshot_best: "acuracy"', "no output 'acuracy'. Did you mean 'accuracy'"),
        (
            'snapshot_best: "loss" lower_is_better: "acuracy"',
            "no test net has an output 'acuracy'. Did you mean 'acc",
        ),
        ('early_stopping { output: "loss" patience: 0 }', "patience must be at least 1"),
        ('early_stopping { output: "loss" test_net: 1 }', r"there is no test net \(#1\)"),
        ('early_stopping { output: "loss" min_delta: -1 }', "min_delta must be at least 0"),
    ],
)
def test_wrong_setting_is_reported_with_its_place(
    folder: Path, settings: str, message: str
) -> None:
    with pytest.raises(SolverError, match=rf"solver.prototxt:\d+: .*{message}"):
        make_solver(TESTS + settings)


def test_watching_without_test_net_is_an_error(folder: Path) -> None:
    with pytest.raises(SolverError, match="the solver has no test net"):
        make_solver(SETTINGS + 'snapshot_best: "loss"')


def test_output_of_several_values_is_an_error() -> None:
    with pytest.raises(SolverError, match="has 3 values: name an output with a single value"):
        MetricMonitor(OUTPUTS, 0, "per")
