"""The LeNet of 2015 without 70 % of its channels, and what distilling brings back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from caffe_kd.cli.main import main

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
WEIGHTS = SHARED / "models" / "lenet-ethereon" / "lenet_iter_10000.caffemodel"
MNIST = SHARED / "data" / "mnist"


@pytest.mark.skipif(not (WEIGHTS.is_file() and MNIST.is_dir()), reason="MNIST is not here")
def test_lenet_recovers_from_a_cut_of_70_percent(tmp_path, monkeypatch, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mnist").symlink_to(MNIST.resolve())
    monkeypatch.chdir(tmp_path)
    model = ROOT / "prototxt" / "mnist" / "lenet_train_test.prototxt"
    source = ["-model", str(model), "-weights", str(WEIGHTS.resolve())]
    flags = ["-ratio", "0.7", "-output", "p", "-solver_output", "s.prototxt"]
    assert main(["prune", *source, *flags]) == 0
    assert main(["train", "-solver", "s.prototxt", "-no_progress"]) == 0
    found = re.findall(r"Test net output #0: accuracy = ([\d.]+)", capsys.readouterr().err)
    assert float(found[-1]) >= 0.985
