"""The lines that a run logs, and what reads them."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import pytest
import torch

from caffe_kd.logs.log_parser import parse_log
from tests.solver.training import (
    DISTIL,
    DISTILLER,
    SETTINGS,
    STUDENT,
    lines_of,
    losses_of,
    make_solver,
    solved,
)

TEST = SETTINGS + "test_iter: 3 test_interval: 2\n"
# The log prints six digits.
PRINTED = 1e-5


def test_lines_are_those_that_tools_look_for(folder):
    solver = solved(TEST + "display: 2 snapshot: 4 test_compute_loss: true")
    lines = lines_of(solver)
    start = lines.index("Solving tiny")
    assert lines[start + 1] == "Learning Rate Policy: fixed"
    patterns = [
        r"Iteration 2 \([\d.e+]+ iter/s, [\d.e+-]+s/2 iters\), loss = [\d.]+",
        r"    Train net output #0: loss = [\d.]+ \(\* 1 = [\d.]+ loss\)",
        r"Iteration 2, lr = 0.1",
        r"Iteration 2, Testing net \(#0\)",
        r"Test loss: [\d.]+",
        r"    Test net output #0: accuracy = [\d.e-]+",
        r"    Test net output #1: loss = [\d.]+ \(\* 1 = [\d.]+ loss\)",
        r"Iteration 6, loss = [\d.]+",
        r"Memory required for data: \d+",
    ]
    for pattern in patterns:
        assert any(re.fullmatch(pattern, line) for line in lines), pattern
    model = lines.index("Snapshotting to binary proto file solver_iter_4.caffemodel")
    assert lines[model + 1] == (
        "Snapshotting solver state to binary proto file solver_iter_4.solverstate"
    )


def test_lines_of_hdf5_snapshots_say_so(folder):
    lines = lines_of(solved(SETTINGS + "snapshot_format: HDF5"))
    model = lines.index("Snapshotting to HDF5 file solver_iter_6.caffemodel.h5")
    assert lines[model + 1] == "Snapshotting solver state to HDF5 file solver_iter_6.solverstate.h5"


def test_known_regular_expressions_read_the_log(folder):
    """Those of Caffe's parse_log.py and of DIGITS."""
    solver = solved(TEST + "display: 2")
    digits = re.compile(r"(\w)(\d{4} \S{8}).*]\s+(\S.*)$")
    rate = re.compile(r"lr = ([-+]?[0-9]*\.?[0-9]+([eE]?[-+]?[0-9]+)?)")
    train = re.compile(r"Train net output #(\d+): (\S+) = ([\.\deE+-]+)")
    test = re.compile(r"Test net output #(\d+): (\S+) = ([\.\deE+-]+)")
    whole = solver.log.whole_lines
    assert all(digits.match(line) for line in whole)
    assert [m[1] for line in whole if (m := rate.search(line))] == ["0.1"] * 3
    assert [m.group(1, 2) for line in whole if (m := train.search(line))] == [("0", "loss")] * 3
    outputs = [m.group(1, 2) for line in whole if (m := test.search(line))]
    assert outputs == [("0", "accuracy"), ("1", "loss")] * 4
    for line in whole:
        if re.search(r"Iteration \d+ \(", line):
            assert line.count("=") == 1


def test_log_is_read_back_as_it_was_meant(folder):
    solver = solved(TEST.replace("fixed", "step") + "display: 1 gamma: 0.5 stepsize: 2")
    Path("run.log").write_text(solver.log.buffer.getvalue())
    log = parse_log("run.log")
    assert log.net == "tiny"
    assert [row.iteration for row in log.train] == [0, 1, 2, 3, 4, 5, 6]
    rates = [row.lr for row in log.learning_rates]
    assert rates == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.025], rel=PRINTED)
    assert [row.iteration for row in log.tests[0]] == [0, 2, 4, 6]
    assert set(log.tests[0][0].outputs) == {"accuracy", "loss"}
    again = make_solver(SETTINGS.replace("fixed", "step") + "gamma: 0.5 stepsize: 2")
    want = losses_of(again, 6)
    assert [row.loss for row in log.train][:6] == pytest.approx(want, rel=PRINTED)


def test_multistep_tells_each_step_before_the_rate(folder):
    solver = solved(
        SETTINGS.replace('"fixed"', '"multistep"')
        + "gamma: 0.1 stepvalue: 2 stepvalue: 4 display: 1"
    )
    lines = lines_of(solver)
    first = lines.index("MultiStep Status: Iteration 2, step = 1")
    assert lines[first + 1] == "Iteration 2, lr = 0.01"
    assert "MultiStep Status: Iteration 4, step = 2" in lines
    assert len(solver.log.matching("MultiStep")) == 2


def test_learning_rate_layer_shows_the_rate_in_the_test_net_too(folder):
    rate = 'layer { name: "rate" type: "LearningRate" top: "rate" }'
    Path("net.prototxt").write_text(STUDENT + rate)
    solver = solved(TEST.replace("fixed", "step") + "display: 2 gamma: 0.5 stepsize: 2")
    trained = [line.split(" = ")[1] for line in solver.log.matching("Train net output.*rate")]
    tested = [line.split(" = ")[1] for line in solver.log.matching("Test net output.*rate")]
    assert trained == ["0.1", "0.05", "0.025"]
    assert tested == [*trained, "0.025"]  # the last test comes after the last update


def test_source_of_a_distiller_layer_lies_beside_the_distiller(folder):
    other = folder / "other"
    other.mkdir()
    (other / "extra.txt").write_text("rows.h5")  # itself from the working directory
    (other / "distiller.prototxt").write_text(
        DISTILLER + 'layer { name: "extra" type: "HDF5Data" top: "data_again" '
        'hdf5_data_param { source: "extra.txt" batch_size: 4 } include { phase: TRAIN } }'
    )
    with h5py.File("rows.h5", "a") as file:
        file["data_again"] = file["data"][...]
    solver = make_solver(DISTIL.replace('"distiller.pro', '"other/distiller.pro'))
    solver.step(1)
    assert torch.equal(solver.net.blobs["data_again"], solver.net.blobs["data"])


def test_clipping_is_reported_with_norm_and_factor(folder):
    solver = solved(SETTINGS + "clip_gradients: 0.001 max_iter: 1")
    (line,) = solver.log.matching("Gradient clipping")
    number = r"([\d.e+-]+)"
    match = re.fullmatch(
        rf"Gradient clipping: scaling down gradients \(L2 norm {number} > 0.001\) "
        rf"by scale factor {number}",
        line,
    )
    assert float(match[1]) * float(match[2]) == pytest.approx(0.001, rel=PRINTED)


def test_setting_left_out_of_the_policy_is_a_warning(folder):
    solver = make_solver(SETTINGS.replace('"fixed"', '"multistep"') + "stepvalue: 3")
    assert solver.log.matching("uses gamma, which is not given and counts as 0")
