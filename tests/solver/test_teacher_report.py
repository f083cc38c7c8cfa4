"""The line before iteration 0 that says how good teacher and student are."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from caffe_kd.data.backends.idx import write_idx
from caffe_kd.layers.data.data import Data
from caffe_kd.net import load_net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto.binary import write_weights
from caffe_kd.solver.solver import Solver
from tests.solver.training import MemoryLog, lines_of, make_solver

CLASSES = 4
COUNT = 200
PRINTED = 1e-5
DATA = """
layer { name: "data" type: "Data" top: "data" top: "label" transform_param { scale: 0.01 %s }
  data_param { source: "images-idx3-ubyte" backend: IDX batch_size: 50 } }
"""
TEACHER = (
    DATA
    + """
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc"
  inner_product_param { num_output: 4 weight_filler { type: "constant" value: 0 } } }
layer { name: "soft" type: "Softmax" bottom: "fc" top: "soft" }
"""
)
STUDENT = (
    DATA
    + """
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "drop" type: "Dropout" bottom: "ip" top: "ip" }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy"
  include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
)
DISTILLER = """layer { name: "kd" type: "DistillingLoss" bottom: "ip" bottom: "teacher/fc" top: "kd"
  include { phase: TRAIN } }"""
SOLVER = """net: "net.prototxt" teacher { net: "teacher.prototxt" weights: "teacher.caffemodel" }
distiller_net: "kd.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 5 random_seed: 3
test_iter: 4 test_interval: 5 momentum: 0.9 display: 1
"""
LINE = re.compile(
    r"Before training, on (\d+) test samples: teacher 'teacher': accuracy = (\S+), loss = (\S+); "
    r"student: accuracy = (\S+), loss = (\S+)"
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A teacher that knows which quarter of the image is bright, and its untrained student."""
    monkeypatch.chdir(tmp_path)
    labels = np.random.default_rng(0).integers(0, CLASSES, COUNT).astype(np.uint8)
    images = np.zeros((COUNT, 2, 2), np.uint8)
    images.reshape(COUNT, 4)[np.arange(COUNT), labels] = 200
    write_idx(tmp_path / "images-idx3-ubyte", images)
    write_idx(tmp_path / "labels-idx1-ubyte", labels)
    Path("net.prototxt").write_text(STUDENT % "")
    Path("kd.prototxt").write_text(DISTILLER)
    write_teacher()
    return tmp_path


def write_teacher(knows: bool = True, more: str = "") -> None:
    Path("teacher.prototxt").write_text(TEACHER % more)
    net = load_net("teacher.prototxt", pb.TEST)
    weights = net.weights()
    weights["fc"][0][:] = np.eye(4, dtype=np.float32) if knows else 0
    write_weights("teacher.caffemodel", net.param, weights)


def reported(solver: Solver) -> tuple[float, ...] | None:
    found = [LINE.fullmatch(line) for line in lines_of(solver)]
    numbers = [tuple(map(float, match.groups())) for match in found if match]
    return numbers[0] if numbers else None


def test_teacher_and_student_are_scored_before_iteration_0() -> None:
    solver = make_solver(SOLVER)
    tested = solver.test(0)
    solver = make_solver(SOLVER)
    solver.solve()
    found = reported(solver)
    assert found is not None
    count, right, loss, student_right, student_loss = found
    assert (count, right) == (COUNT, 1)
    scores = np.array([2.0, 0, 0, 0])
    assert loss == pytest.approx(np.log(np.exp(scores).sum()) - 2, rel=PRINTED)
    assert student_right == pytest.approx(tested["accuracy"][0], rel=PRINTED)
    assert student_loss == pytest.approx(tested["loss"][0], rel=1e-3)
    first = next(i for i, line in enumerate(lines_of(solver)) if LINE.fullmatch(line))
    assert first < lines_of(solver).index("Iteration 0, Testing net (#0)")
    assert not [line for line in lines_of(solver) if "no better than a guess" in line]


def test_teacher_that_guesses_is_warned_of() -> None:
    write_teacher(knows=False)
    solver = make_solver(SOLVER)
    solver.step(1)
    assert isinstance(solver.log, MemoryLog)
    (line,) = [x for x in solver.log.whole_lines if "no better than a guess among 4 classes" in x]
    assert line.startswith("W") and "teacher 'teacher'" in line and "BGR or RGB" in line


def test_resumed_run_is_not_reported_again() -> None:
    make_solver(SOLVER + "snapshot: 2").solve()
    resumed = make_solver(SOLVER)
    resumed.solve("solver_iter_2.solverstate")
    assert reported(resumed) is None


def run(monkeypatch: pytest.MonkeyPatch, with_report: bool) -> tuple[list[Tensor], list[str]]:
    if not with_report:
        monkeypatch.setattr(
            "caffe_kd.solver.callbacks.teacher_report.build", lambda solver, options: []
        )
    solver = make_solver(SOLVER + "test_initialization: true")
    solver.solve()
    lines = [re.sub(r"\(\S+ iter/s, \S+ iters\), ", "", x) for x in lines_of(solver)]
    return [p.blob.detach().clone() for p in solver.net.params], lines


@pytest.mark.parametrize("transform", ["", "mirror: true crop_size: 2"])
def test_report_changes_no_number_of_the_run(
    monkeypatch: pytest.MonkeyPatch, transform: str
) -> None:
    Path("net.prototxt").write_text(STUDENT % transform)
    with_it, logged = run(monkeypatch, True)
    state = torch.get_rng_state()
    without, plain = run(monkeypatch, False)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(with_it, without, strict=True))
    assert [x for x in logged if not x.startswith("Before training")] == plain


def test_samples_that_are_augmented_in_test_are_left_alone() -> None:
    """They differ each time, and making them draws random numbers."""
    assert Data.deterministic is not None
    Path("net.prototxt").write_text(STUDENT % "mirror: true")
    solver = make_solver(SOLVER)
    solver.step(1)
    mirrored = not solver.test_nets[0].nodes[0].layer.deterministic  # type: ignore[attr-defined]
    assert (reported(solver) is None) == mirrored


def test_teacher_in_onnx_is_scored_too() -> None:
    from caffe_kd.cli.export_onnx import main

    assert main(["-model", "teacher.prototxt", "-weights", "teacher.caffemodel",
                 "-output", "teacher.onnx"]) == 0  # fmt: skip
    text = SOLVER.replace('net: "teacher.prototxt" weights: "teacher.caffemodel"',
                          'net: "teacher.onnx"')  # fmt: skip
    Path("kd.prototxt").write_text(DISTILLER.replace("teacher/fc", "teacher/soft"))
    solver = make_solver(text)
    solver.step(1)
    found = reported(solver)
    assert found is not None and found[:2] == (COUNT, 1)
