"""Command lines of scripts written for Caffe's `caffe`, through tools/caffe."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import caffe_kd as caffe
from caffe_kd.cli.main import main

ROOT = Path(__file__).parents[2]

NET = """
name: "small"
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 }
    data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" value: 1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy"
  include { phase: TEST stage: "scored" } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = """net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 3 display: 1
snapshot_prefix: "small" solver_mode: CPU
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(NET)
    Path("solver.prototxt").write_text(SOLVER)


@pytest.mark.skipif(os.name != "posix", reason="a bash script")
def test_script_trains_resumes_and_tests_with_caffes_flags(tmp_path: Path) -> None:
    Path("build/tools").mkdir(parents=True)
    Path("build/tools/caffe").symlink_to(ROOT / "tools" / "caffe")
    Path("train.sh").write_text(
        """set -e
TOOLS=./build/tools
$TOOLS/caffe train --solver=solver.prototxt -logtostderr=1 -sighup_effect=none
sed -i.old 's/max_iter: 3/max_iter: 5/' solver.prototxt
$TOOLS/caffe train -alsologtostderr -solver solver.prototxt -snapshot=small_iter_3.solverstate \
  --sigint_effect=snapshot -level=0
$TOOLS/caffe test -model=net.prototxt -weights small_iter_5.caffemodel --iterations=2 -stage=scored
"""
    )
    done = subprocess.run(
        ["bash", "train.sh"],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    log = [line.split("] ", 1)[-1] for line in done.stderr.splitlines()]
    assert log.count("Starting Optimization") == 2
    assert "Resuming from small_iter_3.solverstate" in log
    assert any(line.startswith("Iteration 5, loss = ") for line in log)
    assert any(line.startswith("Batch 1, accuracy = ") for line in log)
    assert Path("small_iter_5.caffemodel").is_file()


def test_every_command_takes_every_flag_of_caffe(
    capsys: pytest.CaptureFixture[str],
) -> None:
    values = {
        "gpu": "", "solver": "solver.prototxt", "model": "net.prototxt", "phase": "TEST",
        "level": "0", "stage": "scored", "snapshot": "", "weights": "",
        "iterations": "2", "sigint_effect": "stop", "sighup_effect": "none",
    }  # fmt: skip
    assert main(["train", *(f"-{name}={value}" for name, value in values.items())]) == 0
    err = capsys.readouterr().err
    for name in ("model", "phase", "iterations"):
        assert f"note: -{name} does nothing in caffe_kd train\n" in err
    assert err.count("note: -") == 3
    values["weights"] = "small_iter_3.caffemodel,small_iter_3.caffemodel"
    idle = ["snapshot", "solver", "sigint_effect", "sighup_effect"]
    for command, unused in (("test", [*idle, "phase"]), ("time", idle)):
        assert main([command, *(f"--{name}={value}" for name, value in values.items())]) == 0
        err = capsys.readouterr().err
        for name in unused:
            assert f"note: --{name} does nothing in caffe_kd {command}\n" in err
        assert err.count("note: -") == len(unused)
        assert "Use CPU." in err
    if not torch.cuda.is_available():
        assert main(["device_query", *(f"--{name}={value}" for name, value in values.items())]) == 0
        assert capsys.readouterr().err.count("note: --") == len(values) - 1


@pytest.mark.parametrize(
    "words",
    [
        ["-model", "net.prototxt", "time", "-iterations", "1"],
        ["--logtostderr=1", "--iterations=1", "time", "-model=net.prototxt"],
        ["-alsologtostderr", "-stage", "test", "time", "-model=net.prototxt", "-iterations=1"],
    ],
)
def test_flags_may_stand_before_the_command(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    assert "Testing for 1 iterations." in capsys.readouterr().err


def test_flags_alone_are_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-model", "net.prototxt"]) == 2
    assert "unknown command '-model'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "test", "time", "device_query"])
def test_every_command_takes_the_flags_of_glog(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if command == "device_query" and torch.cuda.is_available():
        pytest.skip("its lines are the device's")
    assert main(["train", "-solver=solver.prototxt"]) == 0
    capsys.readouterr()
    words = {
        "train": ["-solver=solver.prototxt"],
        "test": ["-model=net.prototxt", "-weights=small_iter_3.caffemodel", "-iterations=1"],
        "time": ["-model=net.prototxt", "-iterations=1"],
        "device_query": [],
    }
    flags = ["--nologtostderr", "-stderrthreshold", "0", "-minloglevel=1", "-colorlogtostderr"]
    assert main([command, *words[command], *flags, "-alsologtostderr=0", "-logtostderr=1"]) == 0
    err = capsys.readouterr().err
    for name in ("--nologtostderr", "-stderrthreshold", "-minloglevel", "-alsologtostderr"):
        assert f"note: {name} does nothing in caffe_kd {command}" in err
    assert "note: -logtostderr" not in err
    assert "] " in err  # a line of the log


def test_log_lies_in_the_folder_that_log_dir_names(capsys: pytest.CaptureFixture[str]) -> None:
    newest = Path("logs/caffe.INFO")
    newest.parent.mkdir()
    newest.write_text("of an older run\n")
    assert main(["train", "-solver=solver.prototxt", "--log_dir=logs"]) == 0
    assert newest.read_text().count("Optimization Done.") == 2  # of the solver and of the command
    assert ".log.INFO." in newest.resolve().name
    assert f"Log file: logs{os.sep}{newest.resolve().name}" in capsys.readouterr().err
    assert not list(Path().glob("*.log"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_device_that_the_solver_names_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    Path("solver.prototxt").write_text(SOLVER.replace("CPU", "GPU device_id: 0"))
    assert main(["train", "-solver=solver.prototxt"]) == 0
    assert "Using GPUs 0" in capsys.readouterr().err
    Path("solver.prototxt").write_text(SOLVER.replace("CPU", "GPU device_id: 99"))
    assert main(["train", "-solver=solver.prototxt"]) == 2
    assert "device_id: 99 in the solver, but there are" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("gpus", ["-gpu=all", "--gpu=0"])
@pytest.mark.parametrize(
    "words",
    [
        ["train", "-solver=solver.prototxt"],
        ["test", "-model=net.prototxt", "-weights=small.caffemodel"],
        ["time", "-model=net.prototxt"],
    ],
    ids=lambda words: words[0],
)
def test_gpu_on_a_machine_without_one_is_the_cpu(
    words: list[str], gpus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    caffe.Net("net.prototxt", caffe.TEST).save("small.caffemodel")
    capsys.readouterr()
    assert main([*words, gpus]) == 0
    error = capsys.readouterr().err
    assert error.count("Use CPU. (-gpu") == 1 and "but there is no CUDA device)" in error


def test_training_on_several_gpus_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.device_count() == 1:
        pytest.skip("the second one is not here")
    assert main(["train", "-solver=solver.prototxt", "-gpu=0,1"]) == 2
    error = capsys.readouterr().err
    assert "-gpu 0,1: training runs on one GPU" in error and "iter_size: 2" in error
