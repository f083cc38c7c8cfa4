"""A training that has learned nothing says so at its end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffe_kd.data.backends.idx import write_idx
from tests.solver.training import MemoryLog, make_solver

NET = """
layer { name: "data" type: "Data" top: "data" top: "label" transform_param { %s }
  data_param { source: "images-idx3-ubyte" backend: IDX batch_size: 50 } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
  inner_product_param { num_output: 20 %s } }
layer { name: "relu" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param { num_output: 4 %s } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy"
  include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""
SOLVER = """net: "net.prototxt" base_lr: 0.1 momentum: 0.9 lr_policy: "fixed" random_seed: 1
snapshot_after_train: false max_iter: %d
"""
TESTED = "test_iter: 4 test_interval: 100"
XAVIER = 'weight_filler { type: "xavier" }'
SCALE = "scale: 0.01"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    labels = np.arange(200) % 4
    images = np.random.default_rng(0).integers(0, 120, (200, 8), np.uint8)
    images[np.arange(200), labels] = 255
    write_idx(tmp_path / "images-idx3-ubyte", images.reshape(200, 2, 4))
    write_idx(tmp_path / "labels-idx1-ubyte", labels.astype(np.uint8))
    return tmp_path


def warning_of(transform: str, filler: str, iterations: int, more: str) -> str | None:
    Path("net.prototxt").write_text(NET % (transform, filler, filler))
    log = MemoryLog()
    make_solver(SOLVER % iterations + more, log).solve()
    found = [x for x in log.whole_lines if "still that of guessing" in x and x.startswith("W")]
    return found[0] if found else None


@pytest.mark.parametrize("more", ["", TESTED])
@pytest.mark.parametrize(
    ("transform", "filler"),
    [("", XAVIER), (SCALE, "")],
    ids=["pixels of 0 to 255", "no filler"],
)
def test_training_that_stays_at_chance_is_warned_of(transform: str, filler: str, more: str) -> None:
    line = warning_of(transform, filler, 300, more)
    assert line is not None
    assert "and ln(4) = 1.38629" in line and "without a scale" in line
    assert "The ReLU of 'relu' outputs only zeros" in line


@pytest.mark.parametrize("more", ["", TESTED])
def test_training_that_learns_is_not(more: str) -> None:
    assert warning_of(SCALE, XAVIER, 300, more) is None


def test_training_that_has_hardly_begun_is_not() -> None:
    assert warning_of(SCALE, "", 100, TESTED) is None
