"""Stages that no layer asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_kd.cli.test import main as run_test
from tests.solver.training import SETTINGS, STUDENT, MemoryLog, make_solver

EXCLUDED = 'top: "loss" exclude { phase: TRAIN stage: "distil" } }'
TRAIN_STATE = SETTINGS + 'train_state { stage: "distill" }'


@pytest.fixture(autouse=True)
def net(folder: Path) -> None:
    parts = STUDENT.rpartition('top: "loss" }')
    (folder / "net.prototxt").write_text(parts[0] + EXCLUDED + parts[2])


def warnings_of(settings: str, **overrides: object) -> list[str]:
    log = MemoryLog()
    make_solver(settings, log, **overrides)
    return [line for line in log.whole_lines if line.startswith("W")]


def test_stage_that_no_layer_names_is_warned_of(folder: Path) -> None:
    (line,) = warnings_of(TRAIN_STATE)
    assert "solver.prototxt:2: no layer's include or exclude names the stage 'distill'" in line
    assert "Did you mean 'distil'" in line
    (line,) = warnings_of(SETTINGS, stages=["other"])
    assert "the stage 'other'" in line and "Did you mean" not in line
    (line,) = warnings_of(
        SETTINGS + 'test_iter: 1 test_interval: 1 test_state { stage: "distile" }'
    )
    assert "the stage 'distile'" in line


def test_stage_that_a_layer_names_is_not(folder: Path) -> None:
    assert warnings_of(SETTINGS) == []
    other = STUDENT.replace("include { phase: TEST }", 'include { phase: TEST not_stage: "few" }')
    Path("net.prototxt").write_text(other)
    assert warnings_of(SETTINGS, stages=["few"]) == []


def test_scoring_warns_too(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    weights, _ = make_solver().snapshot()
    scored = ["-model", "net.prototxt", "-weights", str(weights), "-iterations", "1"]
    assert run_test([*scored, "-stage", "distill"]) == 0
    assert (
        "the stage 'distill', so it changes nothing. Did you mean 'distil'"
        in capfd.readouterr().err
    )
    assert run_test([*scored, "-stage", "distil"]) == 0
    assert "names the stage" not in capfd.readouterr().err
