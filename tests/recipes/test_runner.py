"""Trainings that are skipped when done, resumed when stopped, and repeated when inputs change."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffe_kd.core.errors import Stopped
from caffe_kd.proto.binary import read_weights
from caffe_kd.recipes.runner import ExperimentRunner, TimeLeft, Training, as_csv, newest_state
from caffe_kd.solver.callback import Action, Callback
from caffe_kd.solver.run import RunOptions
from caffe_kd.solver.solver import Solver
from tests.solver.training import SETTINGS, STUDENT, write_rows


class StopAt(Callback):
    """Stops the first time that an iteration is done, as Ctrl-C would."""

    def __init__(self, iteration: int) -> None:
        self._iteration = iteration
        self._now = -1

    def after_update(self, solver: Solver) -> None:
        self._now = solver.iter

    def requested(self) -> Action:
        return Action.STOP if self._now == self._iteration else Action.NONE


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Training:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path)
    Path("net.prototxt").write_text(STUDENT)
    return _training()


def _training(name: str = "run", settings: str = "", **more: Any) -> Training:
    solver = Path(f"{name}.prototxt")

    def prepare() -> Path:
        solver.write_text(f'{SETTINGS} max_iter: 6 snapshot_prefix: "{name}" {settings}')
        return solver

    return Training(
        name,
        Path(f"{name}.json"),
        lambda: {"settings": settings},
        prepare,
        measure=lambda trained: {"at": trained.iter},
        log=Path(f"{name}.log"),
        **more,
    )


def _blobs(path: Path) -> list[np.ndarray]:
    return [blob for layer in read_weights(path) for blob in layer.blobs if blob is not None]


def test_training_that_is_done_is_not_done_again(training: Training) -> None:
    runner = ExperimentRunner(lambda _: None)
    first = runner.run(training)
    assert (first.iteration, first.values, first.reused) == (6, {"at": 6}, False)
    log = Path("run.log").read_bytes()
    second = runner.run(training)
    assert second.reused and second.values == first.values
    assert Path("run.log").read_bytes() == log


@pytest.mark.parametrize("gone", ["run.json", "run_iter_6.caffemodel"])
def test_training_whose_files_are_gone_is_not_done(training: Training, gone: str) -> None:
    runner = ExperimentRunner(lambda _: None)
    runner.run(training)
    Path(gone).unlink()
    assert runner.result(training) is None
    assert not runner.run(training).reused


def test_damaged_record_is_as_none(training: Training) -> None:
    runner = ExperimentRunner(lambda _: None)
    runner.run(training)
    Path("run.json").write_text("{damaged")
    assert not runner.run(training).reused


def test_changed_inputs_are_trained_from_the_start(training: Training) -> None:
    runner = ExperimentRunner(lambda _: None)
    before = _blobs(runner.run(training).weights)
    changed = _training(settings="momentum: 0.9")
    assert runner.result(changed) is None
    after = _blobs(runner.run(changed).weights)
    assert not np.array_equal(before[0], after[0])
    assert Path("run.log").read_text().count("Log file") == 1
    assert "Resuming" not in Path("run.log").read_text()


def test_stopped_training_is_resumed_to_the_same_bits(training: Training) -> None:
    stopping = ExperimentRunner(lambda _: None, RunOptions(callbacks=[StopAt(2)]))
    with pytest.raises(Stopped, match="the same command resumes from here"):
        stopping.run(training)
    assert newest_state(Path("run")) == Path("run_iter_3.solverstate")
    runner = ExperimentRunner(lambda _: None)
    assert runner.result(training) is None
    resumed = runner.run(training)
    assert "Resuming from run_iter_3.solverstate" in Path("run.log").read_text()
    assert newest_state(Path("run")) is None  # of its snapshots only the weights stay
    straight = runner.run(_training("straight"))
    for one, other in zip(*(_blobs(r.weights) for r in (resumed, straight)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_all_are_run_in_order_with_the_time_left_and_students_after_their_teacher(
    training: Training,
) -> None:
    said: list[str] = []
    runner = ExperimentRunner(said.append)
    student = _training("student", needs=[training])
    runner.run_all([training, student])
    assert re.fullmatch(r"run 1 of 2: run: \d+ s; about \d+ s left", said[0])
    assert re.fullmatch(r"run 2 of 2: student: \d+ s", said[1]) and len(said) == 2
    Path("run.json").unlink()  # the teacher's: what learnt from it is not done either
    said.clear()
    runner.run_all([training, student])
    assert said[0].startswith("run 1 of 2: run: ") and len(said) == 2
    said.clear()
    runner.run_all([training, student])
    assert said == ["2 of 2 runs are already done"]


def test_log_lines_go_into_the_log_file_alone(
    training: Training, capsys: pytest.CaptureFixture[str]
) -> None:
    ExperimentRunner(lambda _: None).run(training)
    assert capsys.readouterr() == ("", "")
    assert "Optimization Done." in Path("run.log").read_text()


def test_time_left_goes_by_cost() -> None:
    left = TimeLeft([1.0, 3.0, 2.0])
    assert str(left) == ""
    left.spent(1.0, 60.0)
    assert str(left) == "; about 5 min left"
    left.skip(3.0)
    assert str(left) == "; about 2 min left"
    left.spent(2.0, 10.0)
    assert str(left) == ""


def test_rows_that_lack_a_column_have_it_empty() -> None:
    assert as_csv([{"a": 1}, {"b": "x,y"}]) == 'a,b\n1,\n,"x,y"\n'
