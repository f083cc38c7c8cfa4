"""``search_kd``, run as users run it."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from caffe_kd.cli.search_kd import main
from caffe_kd.cli.train import main as train
from tests.cli.small import ROOT, write_examples

TRIALS = 6
SEARCH = "temperature,alpha,base_lr=0.0001:1"


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    write_examples(folder)
    assert train(["-solver", str(folder / "teacher_solver.prototxt"), "-no_progress"]) == 0
    return folder


def command(examples: Path, output: Path, *more: str) -> list[str]:
    solver = str(examples / "kd_solver.prototxt")
    return ["-solver", solver, "-output", str(output), "-search", SEARCH, *more]


@pytest.fixture(scope="module")
def searched(examples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search") / "whole"
    assert main(command(examples, folder, "-trials", str(TRIALS))) == 0
    return folder


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "trials.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def test_first_trial_is_the_solvers_own(searched: Path) -> None:
    table = rows(searched)
    assert [row["trial"] for row in table] == [str(n) for n in range(1, TRIALS + 1)]
    first = {name: float(table[0][name]) for name in ("temperature", "alpha", "base_lr")}
    assert first == pytest.approx({"temperature": 4, "alpha": 0.9, "base_lr": 0.02})
    assert (searched / "search.png").read_bytes().startswith(b"\x89PNG")


def test_best_is_a_solver_that_trains(searched: Path) -> None:
    ended = [row for row in rows(searched) if row["state"] == "COMPLETE"]
    best = max(float(row["accuracy"]) for row in ended)
    solver = searched / "best_solver.prototxt"
    (chosen, *_) = (row for row in ended if float(row["accuracy"]) == best)
    from caffe_kd.solver.plan import read_plan

    plan = read_plan(solver)
    assert plan.solver.base_lr == pytest.approx(float(chosen["base_lr"]), rel=1e-4)
    assert train(["-solver", str(solver), "-no_progress"]) == 0
    assert (searched / f"best_iter_{plan.solver.max_iter}.caffemodel").is_file()


def test_teacher_runs_once_for_all_trials(searched: Path) -> None:
    reports = [
        line.partition("Teacher cache: ")[2]
        for log in sorted((searched / "trials").glob("*/train.log"))
        for line in log.read_text().splitlines()
        if "Teacher cache: " in line
    ]
    assert reports[0].startswith("6 of 6 chunks computed")
    assert len(reports) > 1
    assert all(report.startswith("0 of 6 chunks computed") for report in reports[1:])


def test_same_seed_makes_the_same_trials_also_in_two_goes(
    examples: Path, searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(examples, tmp_path / "s", "-trials", "2")) == 0
    assert main(command(examples, tmp_path / "s", "-trials", str(TRIALS))) == 0
    assert f"2 of {TRIALS} trials are already done" in capsys.readouterr().out
    assert rows(tmp_path / "s") == rows(searched)
    assert main(command(examples, tmp_path / "other", "-trials", "2", "-seed", "2")) == 0
    assert rows(tmp_path / "other") != rows(searched)[:2]


def test_bad_trials_are_given_up(examples: Path, tmp_path: Path) -> None:
    many = command(examples, tmp_path, "-trials", "14")
    many[many.index(SEARCH)] = "base_lr=0.003:3"
    assert main(many) == 0
    states = [row["state"] for row in rows(tmp_path)]
    assert {*states} == {"COMPLETE", "PRUNED"}
    pruned = [row for row in rows(tmp_path) if row["state"] == "PRUNED"]
    assert all(row["accuracy"] == "" for row in pruned)
    assert any(int(row["tests"]) < 12 for row in pruned)  # stopped before the last test


def test_another_search_in_the_same_folder_is_refused(
    examples: Path, searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(searched, tmp_path / "copy")
    assert main(command(examples, folder, "-trials", "9", "-seed", "5")) == 1
    assert "the folder has a search with a different seed" in capsys.readouterr().err
    assert main(command(examples, folder, "-trials", "9", "-max_iter", "3")) == 1
    assert "a search with a different solver.prototxt" in capsys.readouterr().err


def test_lack_of_optuna_is_reported(
    examples: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(command(examples, tmp_path)) == 2
    assert "pip install optuna" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "missing: -solver"),
        (["-solver", "x", "-trials", "0"], "-trials must be at least 1"),
        (["-solver", "x", "-seed", "-1"], "-seed must not be negative"),
        (["-solver", "x", "-search", "gamma"], "there is no setting 'gamma'"),
    ],
)
def test_wrong_use_is_an_error(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_unknown_output_is_an_error(
    examples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(examples, tmp_path, "-measure", "acuracy")) == 1
    assert "Did you mean 'accuracy'?" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_interrupted_search_keeps_what_is_done_and_goes_on(
    examples: Path, searched: Path, tmp_path: Path
) -> None:
    words = [sys.executable, str(ROOT / "tools" / "search_kd.py")]
    words += command(examples, tmp_path, "-trials", "500")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("trial 2 of 500"):
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "best of " in out
    kept = rows(tmp_path)
    assert 2 <= len(kept) < 500
    # On a busy machine the signal may come some trials later.
    more = max(TRIALS, len(kept) + 1)
    assert main(command(examples, tmp_path, "-trials", str(more))) == 0
    assert rows(tmp_path)[: len(kept)] == kept
    assert rows(tmp_path)[:TRIALS] == rows(searched)
