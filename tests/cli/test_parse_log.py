"""The command that writes a training log as tables."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from caffe_kd.cli.parse_log import main

LOG = """\
I1121 12:00:00.000000  7 solver.cpp:88] Solving LeNet
I1121 12:00:00.100000  7 solver.cpp:1] Iteration 0, Testing net (#0)
I1121 12:00:00.500000  7 solver.cpp:1]     Test net output #0: accuracy = 0.0884
I1121 12:00:00.500000  7 solver.cpp:1]     Test net output #1: loss = 2.39 (* 1 = 2.39 loss)
I1121 12:00:00.500000  7 solver.cpp:1] Iteration 0, Testing net (#1)
I1121 12:00:00.500000  7 solver.cpp:1]     Test net output #0: accuracy = 0.1
I1121 12:00:01.000000  7 solver.cpp:1] Iteration 0 (0 iter/s, 1s/100 iters), loss = 2.3
I1121 12:00:01.000000  7 solver.cpp:1]     Train net output #0: loss = 2.3 (* 1 = 2.3 loss)
I1121 12:00:01.000000  7 solver.cpp:1] Iteration 0, lr = 0.01
I1121 12:00:02.250000  7 solver.cpp:1] Iteration 100 (52.1 iter/s, 1.92s/100 iters), loss = 0.21
I1121 12:00:02.250000  7 solver.cpp:1]     Train net output #0: loss = 0.25 (* 1 = 0.25 loss)
I1121 12:00:02.250000  7 solver.cpp:1] Iteration 100, lr = 0.009
I1121 12:00:03.000000  7 solver.cpp:1] Iteration 200, loss = 0.2
I1121 12:00:02.900000  7 solver.cpp:1] Iteration 200, Testing net (#0)
I1121 12:00:03.000000  7 solver.cpp:1]     Test net output #0: accuracy = 0.9
I1121 12:00:03.000000  7 solver.cpp:1]     Test net output #1: loss = nan (* 1 = nan loss)
"""
# What Caffe's parse_log.py makes of these lines, by its rules.
TRAIN = """\
NumIters,Seconds,LearningRate,loss
0.0,1.0,0.01,2.3
100.0,2.25,0.01,0.25
"""
TEST = """\
NumIters,Seconds,LearningRate,accuracy,loss
0.0,0.5,0.009,0.0884,2.39
200.0,3.0,0.009,0.9,nan
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("caffe.INFO").write_text(LOG)


def test_log_becomes_caffes_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["caffe.INFO", "out"]) == 0
    assert capsys.readouterr().out == ""
    assert Path("out/caffe.INFO.train").read_text() == TRAIN
    assert Path("out/caffe.INFO.test").read_text() == TEST
    (row,) = csv.DictReader(Path("out/caffe.INFO.test_1").open())
    assert row["accuracy"] == "0.1" and row["LearningRate"] == "nan"


def test_flags_of_caffe_are_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--verbose", "--delimiter", ";", "caffe.INFO", "."]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"Wrote caffe.INFO.{ending}" for ending in ("train", "test", "test_1")
    ]
    assert Path("caffe.INFO.train").read_text() == TRAIN.replace(",", ";")
    assert main(["--delimiter", ",,", "caffe.INFO", "."]) == 2
    assert "-delimiter must be one character" in capsys.readouterr().err


def test_first_row_takes_the_rate_of_the_second_as_in_caffe() -> None:
    # No test at the beginning: the first one is at 100, when the rate has been logged.
    lines = [line for line in LOG.splitlines(True) if "est" not in line]
    tests = [
        f"I1121 12:00:0{i}.400000  7 solver.cpp:1] {text}\n"
        for i in (2, 3)
        for text in (
            f"Iteration {100 * i}, Testing net (#0)",
            f"    Test net output #0: accuracy = 0.{i}",
            f"Iteration {100 * i}, loss = 0.2",
            f"Iteration {100 * i}, lr = 0.00{i}",
        )
    ]
    Path("caffe.INFO").write_text("".join(lines[:7] + tests))
    assert main(["caffe.INFO", "."]) == 0
    rates = [row["LearningRate"] for row in csv.DictReader(Path("caffe.INFO.test").open())]
    assert rates == ["0.002", "0.002"]  # the first was tested after 0.009 was logged


def test_seconds_are_exact_over_the_end_of_a_year() -> None:
    head = "I1231 23:59:59.900000  7 solver.cpp:88] Solving LeNet\n"
    rows = "".join(
        f"I0101 00:00:{i:02d}.300000  7 solver.cpp:1] Iteration {i}, loss = 1\n"
        f"I0101 00:00:{i:02d}.400000  7 solver.cpp:1]     Train net output #0: loss = 1\n"
        for i in range(30)
    )
    Path("year.log").write_text(head + rows)
    assert main(["year.log", "."]) == 0
    seconds = [row["Seconds"] for row in csv.DictReader(Path("year.log.train").open())]
    assert seconds == [f"{i}.5" for i in range(30)]


def test_log_without_tests_writes_no_test_table(capsys: pytest.CaptureFixture[str]) -> None:
    Path("train.log").write_text("".join(x for x in LOG.splitlines(True) if "est" not in x))
    assert main(["train.log", ".", "--verbose"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Wrote train.log.train",
        "Not writing train.log.test; no lines to write",
    ]
    assert Path("train.log.train").is_file() and not Path("train.log.test").exists()


def test_file_that_is_no_log_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    Path("notes.txt").write_text("nothing\n")
    assert main(["notes.txt", "."]) == 1
    assert "notes.txt: is not a training log" in capsys.readouterr().err
