"""Teacher and student in turns."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from caffe_kd.cli.alternate import main
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.binary import read_weights
from tests.cli.small import ROOT, write_digits
from tests.cli.stopping import newest_state, stopped
from tests.solver.training import STUDENT, write_rows

# The student sees data without labels, and learns from the teacher's outputs alone.
UNLABELLED = """
layer { name: "data" type: "HDF5Data" top: "data"
  hdf5_data_param { source: "plain.txt" batch_size: 4 } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
"""
KD = 'layer { name: "kd" type: "DistillingLoss" bottom: "ip" bottom: "teacher/ip" top: "kd" }'
COMMON = """base_lr: 0.1 momentum: 0.9 lr_policy: "fixed" max_iter: 8 snapshot: 4 random_seed: 3 """
TEACHER = 'net: "net.prototxt" test_iter: 2 test_interval: 4 snapshot_prefix: "out/t" ' + COMMON
STUDENTS = (
    'net: "plain.prototxt" distiller_net: "kd.prototxt" teacher { net: "net.prototxt" } '
    'snapshot_prefix: "out/s" ' + COMMON
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path)
    with h5py.File("plain.h5", "w") as file:
        file["data"] = np.random.default_rng(9).normal(size=(12, 4)).astype(np.float32)
    files = {"plain.txt": "plain.h5", "net.prototxt": STUDENT, "plain.prototxt": UNLABELLED}
    files |= {"kd.prototxt": KD, "t.prototxt": TEACHER, "s.prototxt": STUDENTS}
    for name, content in files.items():
        Path(name).write_text(content)
    return tmp_path


def run(*more: str) -> int:
    solvers = ["-teacher_solver", "t.prototxt", "-student_solver", "s.prototxt"]
    return main([*solvers, "-rounds", "2", "-no_progress", *more])


def rows() -> list[dict[str, str]]:
    with open("out/s_rounds.csv", newline="") as file:
        return list(csv.DictReader(file))


def solver(name: str):
    return text.read(f"out/{name}_solver.prototxt", pb.SolverParameter())


def blobs(path: str) -> list[np.ndarray]:
    return [blob for layer in read_weights(path) for blob in layer.blobs]


def test_teacher_continues_from_the_student_that_it_trained() -> None:
    assert run() == 0
    order = [(row["round"], row["net"]) for row in rows()]
    assert order == [("1", "teacher"), ("1", "student"), ("2", "teacher"), ("2", "student")]
    assert [bool(row["accuracy"]) for row in rows()] == [True, False, True, False]
    assert solver("s_round_1").teacher[0].weights == "out/t_round_1_iter_8.caffemodel"
    assert list(solver("t_round_2").weights) == ["out/s_round_1_iter_8.caffemodel"]
    assert solver("s_round_2").teacher[0].weights == "out/t_round_2_iter_8.caffemodel"
    one, two = (blobs(f"out/t_round_{k}_iter_8.caffemodel") for k in (1, 2))
    assert not np.array_equal(one[0], two[0])


def test_teacher_that_names_the_student_goes_on_and_learns_from_it() -> None:
    Path("t.prototxt").write_text(
        TEACHER + 'teacher { net: "plain.prototxt" } distiller_net: "kd.prototxt"'
    )
    assert run() == 0
    assert not solver("t_round_1").teacher
    second = solver("t_round_2")
    assert list(second.weights) == ["out/t_round_1_iter_8.caffemodel"]
    assert second.teacher[0].weights == "out/s_round_1_iter_8.caffemodel"


def test_interrupted_run_goes_on_to_the_same_bits() -> None:
    run()
    table = rows()
    wanted = blobs("out/s_round_2_iter_8.caffemodel")
    for name in ("t_round_2", "s_round_2"):
        Path(f"out/{name}_iter_8.caffemodel").unlink()
        Path(f"out/{name}_iter_8.solverstate").unlink()
    run()
    assert rows() == table
    again = blobs("out/s_round_2_iter_8.caffemodel")
    assert all(np.array_equal(a, b) for a, b in zip(again, wanted, strict=True))


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_in_a_turn_reports_that_the_same_command_goes_on() -> None:
    endless = STUDENTS.replace("max_iter: 8 snapshot: 4", "max_iter: 1000000 snapshot: 0")
    Path("s.prototxt").write_text(endless + "display: 1")
    words = ["-teacher_solver", "t.prototxt", "-student_solver", "s.prototxt", "-no_progress"]
    words += ["-rounds", "2"]
    # The teacher's turn is over after 8 iterations, so this is the student's.
    log = stopped("alternate", *words, after="Iteration 9 (", log="out/s_round_1_2*.log")
    assert log[-1].endswith("Stopped; the same command resumes from here")
    assert not any("-snapshot" in line for line in log)
    assert [(row["round"], row["net"]) for row in rows()] == [("1", "teacher")]
    state, reached = newest_state(Path("out/s_round_1"))
    Path("s.prototxt").write_text(endless.replace("1000000", str(reached + 2)))
    assert run() == 0
    assert [row["net"] for row in rows()] == ["teacher", "student"] * 2
    log = sorted(Path("out").glob("s_round_1_2*.log"))[-1].read_text()
    assert f"Resuming from {state}" in log


def test_example_trains_in_turns_by_the_command_that_it_names() -> None:
    Path("data/mnist").mkdir(parents=True)
    write_digits(Path("data/mnist"))
    smaller = {r"max_iter: \d+": "max_iter: 6", r"test_interval: \d+": "test_interval: 6"}
    smaller |= {r"(count|first): 500": r"\1: 40", r"test_iter: \d+": "test_iter: 1"}
    smaller |= {r"batch_size: \d+": "batch_size: 16"}
    for path in (ROOT / "prototxt/distillation").glob("alternate_*"):
        content = path.read_text()
        for old, new in smaller.items():
            content = re.sub(old, new, content)
        copy = Path("prototxt/distillation", path.name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(content)
    named = Path("prototxt/distillation/alternate_solver.prototxt").read_text()
    (words,) = re.findall(r"^#.* caffe_kd alternate (.*)", named, re.MULTILINE)
    assert main([*words.split(), "-no_progress"]) == 0
    folder = Path("output/distillation")
    table = list(csv.DictReader((folder / "alternate_rounds.csv").open(newline="")))
    assert [row["net"] for row in table] == ["teacher", "student"] * 2
    for row in table:
        assert 0 <= float(row["accuracy"]) <= 1
        assert Path(row["weights"]).is_file()
    second = text.read(folder / "alternate_teacher_round_2_solver.prototxt", pb.SolverParameter())
    assert list(second.weights) == [table[1]["weights"]]  # it goes on from the student


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('teacher { net: "net.prototxt" }', "", "s.prototxt: names 0 teachers"),
        ('"out/s"', '"out/t"', "s.prototxt: has the snapshot_prefix of the teacher's solver"),
    ],
)
def test_wrong_solvers_are_errors(
    old: str, new: str, message: str, capsys: pytest.CaptureFixture
) -> None:
    Path("s.prototxt").write_text(STUDENTS.replace(old, new))
    assert run() == 1
    assert message in capsys.readouterr().err
