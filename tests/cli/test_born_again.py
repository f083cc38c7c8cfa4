"""Generations of a net."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from caffe_kd.cli.born_again import main
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.binary import read_weights
from tests.cli.stopping import newest_state, stopped
from tests.solver.training import STUDENT, write_rows, write_teacher

KD = 'layer { name: "kd" type: "DistillingLoss" bottom: "ip" bottom: "teacher/ip" top: "kd" }'
SOLVER = """net: "net.prototxt" distiller_net: "kd.prototxt" test_iter: 2 test_interval: 5
%s base_lr: 0.1 momentum: 0.9 lr_policy: "fixed" max_iter: 8 snapshot: 4
snapshot_prefix: "out/run" random_seed: 3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The solver and its nets lie in inner/, the working directory is above it."""
    monkeypatch.chdir(tmp_path)
    inner = tmp_path / "inner"
    inner.mkdir()
    write_rows(tmp_path)
    write_teacher(inner)
    (inner / "net.prototxt").write_text(STUDENT)
    (inner / "kd.prototxt").write_text(KD)
    (inner / "solver.prototxt").write_text(SOLVER % "")
    return tmp_path


def run(*more: str, generations: int = 3) -> int:
    words = ["-solver", "inner/solver.prototxt", "-generations", str(generations), "-no_progress"]
    return main([*words, *more])


def rows() -> list[dict[str, str]]:
    with open("out/run_generations.csv", newline="") as file:
        return list(csv.DictReader(file))


def weights(generation: int) -> list[np.ndarray]:
    path = f"out/run_gen_{generation}_iter_8.caffemodel"
    return [blob for layer in read_weights(path) for blob in layer.blobs]


def test_each_generation_learns_from_the_one_before(capsys: pytest.CaptureFixture) -> None:
    assert run() == 0
    assert [row["generation"] for row in rows()] == ["1", "2", "3"]
    for row in rows():
        assert row["iteration"] == "8"
        assert Path(row["weights"]).is_file()
        assert 0 <= float(row["accuracy"]) <= 1
    first, *later = (
        text.read(f"out/run_gen_{k}_solver.prototxt", pb.SolverParameter()) for k in (1, 2, 3)
    )
    assert not first.teacher
    assert not first.distiller_net
    assert [x.teacher[0].weights for x in later] == [row["weights"] for row in rows()[:2]]
    assert [x.random_seed for x in (first, *later)] == [3, 4, 5]
    assert not np.array_equal(weights(1)[0], weights(2)[0])
    *stages, _, _, _, _ = table = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in stages] == [f"generation {k}" for k in (1, 2, 3)]
    table = table[3:]
    assert table[0].split() == ["generation", "iteration", "weights", "accuracy", "loss", "kd"]
    assert len(table) == 4


def test_labels_teach_where_distilling_leaves_them_out() -> None:
    loss = 'layer { name: "loss" type: "SoftmaxWithLoss"'
    without = loss + ' exclude { phase: TRAIN stage: "distil" }'
    Path("inner/net.prototxt").write_text(STUDENT.replace(loss, without))
    Path("inner/solver.prototxt").write_text(SOLVER % 'train_state { stage: "distil" stage: "x" }')
    run(generations=2)
    states = [
        list(text.read(f"out/run_gen_{k}_solver.prototxt", pb.SolverParameter()).train_state.stage)
        for k in (1, 2)
    ]
    assert states == [["x"], ["distil", "x"]]
    assert float(rows()[0]["loss"]) < 1.2  # about log 3 before anything is learnt


def test_training_without_a_loss_is_an_error(capsys: pytest.CaptureFixture) -> None:
    net = STUDENT[: STUDENT.index('layer { name: "loss"')]
    Path("inner/net.prototxt").write_text(net)
    assert run(generations=1) == 1
    assert "trains a net without a loss: nothing was learned" in capsys.readouterr().err


def test_interrupted_run_goes_on_to_the_same_bits() -> None:
    run()
    wanted, table = weights(3), rows()
    Path("out/run_gen_3_iter_8.caffemodel").unlink()
    Path("out/run_gen_3_iter_8.solverstate").unlink()
    kept = Path("out/run_gen_2_iter_8.caffemodel").stat().st_mtime_ns
    run()
    assert Path("out/run_gen_2_iter_8.caffemodel").stat().st_mtime_ns == kept
    assert all(np.array_equal(a, b) for a, b in zip(weights(3), wanted, strict=True))
    assert rows() == table
    log = sorted(Path("out").glob("run_gen_3_2*.log"))[-1].read_text()
    assert "Resuming from out/run_gen_3_iter_4.solverstate" in log


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_in_a_generation_reports_that_the_same_command_goes_on() -> None:
    path = Path("inner/solver.prototxt")
    path.write_text((SOLVER % "display: 1").replace("max_iter: 8", "max_iter: 1000000"))
    words = ["-solver", str(path), "-generations", "2", "-no_progress"]
    log = stopped("born_again", *words, after="Iteration 3 (", log="out/run_gen_1_2*.log")
    assert log[-1].endswith("Stopped; the same command resumes from here")
    assert not any("-snapshot" in line for line in log)
    assert not Path("out/run_generations.csv").exists()
    state, reached = newest_state(Path("out/run_gen_1"))
    path.write_text((SOLVER % "display: 1").replace("max_iter: 8", f"max_iter: {reached + 2}"))
    assert main(words) == 0
    assert [row["iteration"] for row in rows()] == [str(reached + 2)] * 2
    log = sorted(Path("out").glob("run_gen_1_2*.log"))[-1].read_text()
    assert f"Resuming from {state}" in log


def test_more_generations_go_on_from_those_there_are() -> None:
    run(generations=1)
    before = weights(1)
    run(generations=2)
    assert len(rows()) == 2
    assert np.array_equal(weights(1)[0], before[0])


def test_first_generation_learns_from_the_teacher_that_is_named() -> None:
    teacher = 'teacher { net: "teacher.prototxt" weights: "teacher.caffemodel" }'
    Path("inner/solver.prototxt").write_text(SOLVER % teacher)
    run(generations=1)
    distilled = weights(1)
    first = text.read("out/run_gen_1_solver.prototxt", pb.SolverParameter())
    assert first.teacher[0].weights == "inner/teacher.caffemodel"
    run("-from_labels", "-output", "other", generations=1)
    alone = [b for x in read_weights("other/run_gen_1_iter_8.caffemodel") for b in x.blobs]
    assert not np.array_equal(alone[0], distilled[0])


@pytest.mark.parametrize(
    ("solver", "words", "message", "status"),
    [
        (SOLVER.replace('distiller_net: "kd.prototxt"', "") % "", (), "names no distiller_net", 1),
        (SOLVER.replace('net: "net.prototxt" ', "", 1) % "", (), "has no net", 1),
        (SOLVER % "teacher {} teacher { name: 't' }", (), "names 2 teachers", 1),
        (SOLVER % "", ("-generations", "0"), "must be a whole number above 0: 0", 2),
    ],
)
def test_wrong_use_is_an_error(
    solver: str, words: tuple, message: str, status: int, capsys: pytest.CaptureFixture
) -> None:
    Path("inner/solver.prototxt").write_text(solver)
    assert run(*words) == status
    assert message in capsys.readouterr().err
