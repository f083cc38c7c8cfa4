"""Command lines of scripts written for the original's caffe, through tools/caffe."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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
def test_script_trains_resumes_and_tests_with_the_original_s_flags(tmp_path: Path) -> None:
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


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="several GPUs are here")
@pytest.mark.parametrize("gpus", ["-gpu=all", "--gpu=0,1"])
@pytest.mark.parametrize(
    "words",
    [
        ["train", "-solver=solver.prototxt"],
        ["test", "-model=net.prototxt", "-weights=small.caffemodel"],
        ["time", "-model=net.prototxt"],
    ],
    ids=lambda words: words[0],
)
def test_gpus_that_are_not_here_are_wrong_usage(
    words: list[str], gpus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.device_count() == 1 and gpus == "-gpu=all":
        pytest.skip("all is the one GPU that is here")
    assert main([*words, gpus]) == 2
    assert "CUDA devices here" in capsys.readouterr().err
