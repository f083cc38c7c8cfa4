"""Hinton's MNIST experiments in small: scikit-learn's digits, narrow nets, few passes."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest

from caffe_kd.cli.hinton_mnist import main
from caffe_kd.core.errors import Stopped
from caffe_kd.logs.log import Log
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.binary import read_weights
from caffe_kd.recipes.digit_runs import DigitRuns, Score, best_shift, count_errors, softmax
from caffe_kd.recipes.hinton_mnist import PARTS, HintonMnist, Row, csv_rows, table
from caffe_kd.recipes.run_files import Run, RunFiles, digits_in
from caffe_kd.recipes.runner import ExperimentRunner, as_csv
from caffe_kd.solver.plan import read_plan
from tests.commands import help_without_torch, run_main

TOOL = Path(__file__).parents[2] / "tools" / "experiments" / "hinton_mnist.py"
RUNS = 16  # of a quick experiment, with one seed
CLOSE = 1e-6  # a few roundings of probabilities in float32


def quick(small: Path, folder: Path) -> list[str]:
    return ["-quick", "-no_download", "-dir", str(small), "-output", str(folder)]


@pytest.fixture(scope="module")
def outcome(small: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The whole quick experiment, with what it printed."""
    folder = tmp_path_factory.mktemp("hinton")
    status, printed = run_main(main, *quick(small, folder))
    assert status == 0, printed
    return folder, printed


def test_all_parts_are_trained_and_reported_beside_the_papers_figures(
    outcome: tuple[Path, str],
) -> None:
    folder, printed = outcome
    assert len(list(folder.glob("*/run.json"))) == RUNS
    assert re.search(rf"run {RUNS} of {RUNS}: of_ensemble: \d+ s", printed)
    lines = (folder / "table.txt").read_text().splitlines()
    assert all(line in printed for line in lines)
    for title, published in (
        ("teacher", "67"),
        ("student alone", "146"),
        ("student distilled, T = 20", "74"),
        ("no 3s ", "206"),
        ("no 3s, bias", "109"),
        ("only 7s and 8s ", "47.3 %"),
        ("only 7s and 8s, bias", "13.2 %"),
        ("30-30 units, T = 2.5", "best"),
        ("their probabilities' mean", "-"),
    ):
        (line,) = (x for x in lines if x.startswith(title) and "360" in x)
        assert line.rstrip().endswith(published), line
    assert (folder / "temperature.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert {row["part"] for row in rows} == set(PARTS)
    for row in rows:
        assert int(row["errors"]) == sum(int(row[f"errors_{c}"]) for c in range(10))
        assert row["tested"] == "360"


def test_nets_learn_what_is_said_of_them(outcome: tuple[Path, str]) -> None:
    folder, _ = outcome

    def errors(name: str) -> int:
        return sum(json.loads((folder / name / "run.json").read_text())["values"]["wrong"])

    assert errors("teacher") < 60  # of 360; guessing makes 324
    assert errors("alone_1") < 60
    assert errors("distilled_1") < 60
    rows = {r["title"]: r for r in csv.DictReader((folder / "results.csv").open())}
    assert int(rows["teacher"]["errors"]) == errors("teacher")
    (corrected,) = (r for title, r in rows.items() if title.startswith("no 3s, bias"))
    assert float(corrected["bias"]) >= 0
    (lowered,) = (r for title, r in rows.items() if title.startswith("only 7s and 8s, bias"))
    assert float(lowered["bias"]) < 0
    # Lowering them lets other digits win: more 7s and 8s are wrong, and fewer of the others.
    before = rows["only 7s and 8s"]
    assert int(lowered["errors"]) < int(before["errors"])


def test_files_of_a_run_say_what_it_is(outcome: tuple[Path, str]) -> None:
    folder, _ = outcome
    net = text.read(folder / "without_3" / "net.prototxt", pb.NetParameter())
    train, test, validation = (x.data_param for x in net.layer if x.type == "Data")
    assert (train.first, train.count, list(train.leave_out)) == (0, 1437 - 119, [3])
    assert (validation.first, validation.count) == (1437 - 119, 119)
    assert "t10k" in test.source and not test.HasField("count")
    teacher = text.read(folder / "teacher" / "net.prototxt", pb.NetParameter())
    assert [x.transform_param.jitter for x in teacher.layer if x.type == "Data"] == [2, 0]
    solver = text.read(folder / "teacher" / "solver.prototxt", pb.SolverParameter())
    assert solver.max_norm == 2
    distiller = text.read(folder / "small_t2.5_1" / "distiller.prototxt", pb.NetParameter())
    assert distiller.layer[0].distilling_loss_param.temperature == 2.5
    for run in folder.glob("*/solver.prototxt"):  # train_kd -solver takes each as it is
        plan = read_plan(run)
        assert Path(
            f"{plan.solver.snapshot_prefix}_iter_{plan.solver.max_iter}.caffemodel"
        ).is_file()


def test_cached_teacher_is_used_by_all_that_learn_from_one(outcome: tuple[Path, str]) -> None:
    logs = [
        p for p in outcome[0].glob("*/train.log") if (p.parent / "distiller.prototxt").is_file()
    ]
    assert len(logs) == 10
    for log in logs:
        assert "Teacher cache: " in log.read_text(), log


def test_second_run_trains_nothing_and_prints_the_same(
    outcome: tuple[Path, str], small: Path
) -> None:
    folder, printed = outcome
    logs = {path: path.read_bytes() for path in folder.glob("*/train.log")}
    status, again = run_main(main, *quick(small, folder))
    assert status == 0
    assert f"{RUNS} of {RUNS} runs are already done" in again
    assert "run 1 of" not in again
    assert {path: path.read_bytes() for path in folder.glob("*/train.log")} == logs
    assert (folder / "table.txt").read_text() in again
    assert (folder / "table.txt").read_text() in printed


def test_changed_teacher_makes_its_students_be_trained_again(small: Path, tmp_path: Path) -> None:
    digits = digits_in(small, 400, 60)
    runs = {
        "teacher": Run("teacher", "teacher", passes=2),
        "pupil": Run("pupil", "small", passes=2, teachers=("teacher",)),
    }
    said: list[str] = []
    trained = DigitRuns(tmp_path, digits, runs, ExperimentRunner(said.append))
    trained.train(["pupil"])
    assert [x.rpartition(":")[0] for x in said] == ["run 1 of 2: teacher", "run 2 of 2: pupil"]
    assert trained.score(runs["pupil"]).errors > 0
    runs["teacher"] = Run("teacher", "teacher", passes=2, seed=9)
    assert trained.result(runs["pupil"]) is None
    said.clear()
    trained.train(["pupil"])
    assert [x.rpartition(":")[0] for x in said] == ["run 1 of 2: teacher", "run 2 of 2: pupil"]
    assert trained.result(runs["pupil"]) is not None


@pytest.mark.skipif(os.name != "posix", reason="sends a signal to the process")
def test_ctrl_c_keeps_what_was_done_and_the_same_call_goes_on(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits, runner = digits_in(small, divisor=10), ExperimentRunner(lambda _: None)
    runs = {"alone": Run("alone", "student", passes=4)}
    log = tmp_path / "alone" / "train.log"

    info = Log.info

    def press(self: Log, text: str) -> None:
        info(self, text)
        if "Iteration 28, lr" in text:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as pressing:
        pressing.setattr(Log, "info", press)
        with pytest.raises(Stopped, match="the same command resumes from here") as stopped:
            DigitRuns(tmp_path, digits, runs, runner).train(["alone"])
    assert stopped.value.exit_status == 130
    (state,) = (tmp_path / "alone").glob("*.solverstate")
    assert int(state.stem.rpartition("_")[2]) in (28, 29)
    DigitRuns(tmp_path, digits, runs, runner).train(["alone"])
    assert f"Resuming from {state}" in log.read_text()
    DigitRuns(tmp_path / "direct", digits, runs, runner).train(["alone"])
    ways = [
        f / "alone" / f"solver_iter_{4 * 14}.caffemodel" for f in (tmp_path, tmp_path / "direct")
    ]
    for one, other in zip(*map(read_weights, ways), strict=True):
        for a, b in zip(one.blobs, other.blobs, strict=True):
            np.testing.assert_array_equal(a, b)  # as if it had never been stopped


def test_mean_of_teachers_is_the_mean_of_their_probabilities(
    outcome: tuple[Path, str], small: Path
) -> None:
    import torch

    from caffe_kd.net import Net

    folder, _ = outcome
    plan = read_plan(folder / "of_ensemble" / "solver.prototxt")
    net = Net(plan.train.param, pb.TRAIN, plan.train.file)
    for teacher in plan.teachers:
        for layer in teacher.layers:
            layer.name = f"{teacher.name}/{layer.name}"
        net.copy_weights(teacher.layers, "")
    with torch.no_grad():
        net()
    names = ("teacher", "teacher_2", "teacher_3")
    shares = [softmax(net.blobs[f"{name}/ip3"].numpy() / 20) for name in names]
    mean = softmax(net.blobs["ensemble"].numpy() / 20)
    np.testing.assert_allclose(mean, np.mean(shares, axis=0), atol=CLOSE)
    assert np.abs(shares[0] - shares[1]).max() > 100 * CLOSE


def test_best_shift_is_the_middle_of_what_is_best() -> None:
    labels = np.array([0, 0, 1, 1])
    # Class 1 wins its records from a shift of 2 on, and takes those of class 0 from 5 on.
    logits = np.array([[5.05, 0.0], [7.0, 0.0], [1.95, 0.0], [1.0, 0.0]])
    assert best_shift(logits, labels, [1], 1) == pytest.approx(3.5)
    assert best_shift(logits, labels, [0], -1) == pytest.approx(-3.5)
    assert best_shift(logits[:2], labels[:2], [1], 1, most=4) == pytest.approx(2.0)


def test_errors_are_counted_by_class() -> None:
    labels = np.array([0, 3, 3, 9])
    logits = np.eye(10)[[0, 3, 5, 3]]
    result = count_errors(logits, labels)
    assert result.errors == 2
    assert (result.wrong[3], result.wrong[9]) == (1, 1)
    assert (result.tested[3], result.tested[1]) == (2, 0)


def test_table_gives_mean_spread_and_each_seed() -> None:
    rows = [
        Row("alone", "student alone", "146", [_result(140), _result(146), _result(154)]),
        Row("without_3", "no 3s, bias +2", "109", [_result(20)], (3,)),
    ]
    rendered = table(rows).splitlines()
    assert (
        "146.7 ± 7.0" in rendered[1] and "140, 146, 154" in rendered[1] and "1.47 %" in rendered[1]
    )
    assert "20 (20 of the 1000 3s)" in rendered[2] and rendered[2].endswith("109")
    lines = as_csv(csv_rows(rows)).splitlines()
    assert len(lines) == 5
    assert lines[1].startswith("alone,student alone,1,140,10000,0,0,0,140,0")


def _result(errors: int) -> Score:
    wrong = [0] * 10
    wrong[3] = errors
    return Score(wrong, [1000] * 10)


def test_parts_name_their_runs_and_teachers_come_first(small: Path, tmp_path: Path) -> None:
    experiment = HintonMnist(tmp_path, digits_in(small), lambda _: None)
    named = [name for part in PARTS for name in experiment.names(part)]
    assert set(named) == set(experiment.runs)
    assert experiment.names("teacher") == ["teacher"]
    assert experiment.names("distilled") == ["distilled_1", "distilled_2", "distilled_3"]
    order = list(experiment.runs)
    files = RunFiles(digits_in(small), experiment.runs)
    for run in experiment.runs.values():
        assert all(order.index(teacher) < order.index(run.name) for teacher in run.teachers)
        assert files.cost(run) > 0


def test_unknown_part_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-only", "teacher,students"]) == 2
    assert "-only takes teacher, alone, " in capsys.readouterr().err


def test_help_imports_no_torch(tmp_path: Path) -> None:
    assert "hinton_mnist.py [FLAGS]" in help_without_torch(TOOL, tmp_path)
