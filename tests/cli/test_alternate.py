"""Teacher and student in turns."""

from __future__ import annotations

import csv
from pathlib import Path

import h5py
import numpy as np
import pytest

from caffe_kd.cli.alternate import main
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.binary import read_weights
from tests.solver.training import STUDENT, write_rows

# The student sees data without labels, and learns from the teacher's answers alone.
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


def test_teacher_goes_on_from_the_student_that_it_taught() -> None:
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


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('teacher { net: "net.prototxt" }', "", "s.prototxt: names 0 teachers"),
        ('"out/s"', '"out/t"', "s.prototxt: has the snapshot_prefix of the teacher's solver"),
    ],
)
def test_wrong_solvers_are_told(
    old: str, new: str, message: str, capsys: pytest.CaptureFixture
) -> None:
    Path("s.prototxt").write_text(STUDENTS.replace(old, new))
    assert run() == 1
    assert message in capsys.readouterr().err
