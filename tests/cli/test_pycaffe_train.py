"""Caffe's python/train.py, compared with pycaffe's SGDSolver."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import caffe_kd as caffe
from caffe_kd.cli.pycaffe_train import main

NET = """
name: "small"
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 4 dim: 3 dim: 8 dim: 8 } shape { dim: 4 }
    data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" value: 1 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = """net: "net.prototxt" base_lr: 0.1 momentum: 0.9 lr_policy: "fixed" max_iter: 4 display: 2
snapshot: 2 snapshot_prefix: "small" random_seed: 3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(NET)
    Path("solver.prototxt").write_text(SOLVER)


cpu_only = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


def lines(text: str) -> list[str]:
    """Return the log lines without time and place."""
    return [line.split("] ", 1)[1] for line in text.splitlines()]


def weights(path: str) -> list[np.ndarray]:
    net = caffe.Net("net.prototxt", caffe.TRAIN, weights=path)
    return [blob.data.copy() for blobs in net.params.values() for blob in blobs]


@cpu_only
def test_solver_is_stepped_to_max_iter_and_no_further_snapshot_is_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    solver = caffe.SGDSolver("solver.prototxt")
    solver.step(4)
    wanted = [blob.data.copy() for blobs in solver.net.params.values() for blob in blobs]
    capsys.readouterr()
    assert main(["--solver", "solver.prototxt"]) == 0
    assert lines(capsys.readouterr().err)[0] == "Use CPU. (There is no CUDA device)"
    for mine, theirs in zip(weights("small_iter_4.caffemodel"), wanted, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    # From a snapshot it goes max_iter further, as Caffe does.
    assert main(["--solver=solver.prototxt", "--snapshot", "small_iter_2.solverstate"]) == 0
    log = lines(capsys.readouterr().err)
    assert Path("small_iter_6.caffemodel").is_file()
    assert not any("Optimization Done" in line for line in log)


@cpu_only
def test_rule_is_sgd_whatever_the_solver_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--solver", "solver.prototxt"]) == 0
    wanted = weights("small_iter_4.caffemodel")
    assert 'type: "' not in capsys.readouterr().err
    Path("solver.prototxt").write_text(SOLVER + 'type: "Nesterov"')
    assert main(["--solver", "solver.prototxt"]) == 0
    assert 'type: "Nesterov" has no effect' in capsys.readouterr().err
    for mine, theirs in zip(weights("small_iter_4.caffemodel"), wanted, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@cpu_only
def test_timing_logs_each_layers_passes_in_caffes_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--solver", "solver.prototxt"]) == 0
    wanted = weights("small_iter_4.caffemodel")
    capsys.readouterr()
    assert main(["--solver", "solver.prototxt", "--timing"]) == 0
    log = lines(capsys.readouterr().err)
    for mine, theirs in zip(weights("small_iter_4.caffemodel"), wanted, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    start = next(index for index, line in enumerate(log) if line.startswith("forw "))
    block = log[start : start + 11]
    heads = ["  0     data", "  1     conv", "  2     relu", "  3       ip", "  4     loss"]
    assert [line.rpartition(" : ")[0] for line in block[:10]] == [
        *(f"forw {head}" for head in heads),
        *(f"back {head}" for head in reversed(heads)),
    ]
    times = [float(line.rpartition(" : ")[2]) for line in block[:10]]
    total = float(block[10].removeprefix("solver total: "))
    assert times[-1] == 0  # data has no way back
    assert times[1] > 0 and times[8] > 0  # the convolution
    assert 0 < sum(times) <= total + 0.1  # rounded to hundredths each
    assert sum(line.startswith("solver total: ") for line in log) == 2  # at 0 and 2


@cpu_only
def test_gpus_that_are_not_here_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--solver", "solver.prototxt", "--gpus", "0", "1"]) == 2
    assert capsys.readouterr().err == (
        "error: --gpus 0 1: training runs on one GPU, in one process; name one\n"
    )
    assert main(["--solver", "solver.prototxt", "--gpus", "0"]) == 0
    assert "Use CPU. (There is no CUDA device)" in capsys.readouterr().err


def test_mistakes_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert (
        "error: missing: -solver (usage: caffe_kd pycaffe_train -solver FILE [FLAGS])"
        in capsys.readouterr().err
    )
    assert main(["--solver", "gone.prototxt"]) == 1
    assert "gone.prototxt: no such file" in capsys.readouterr().err
    assert main(["--solver", "solver.prototxt", "--snapshot", "gone.solverstate"]) == 1
    assert "gone.solverstate: no such file" in capsys.readouterr().err
