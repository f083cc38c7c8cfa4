"""NaN and infinity: where they are found, and that nothing is decided by them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from caffe_kd.cli.test import main as run_test
from caffe_kd.core.errors import NonFiniteLoss, NonFiniteWeights
from caffe_kd.proto.binary import write_weights
from tests.solver.training import (
    ROWS,
    SETTINGS,
    STUDENT,
    lines_of,
    make_solver,
    solved,
    write_rows,
)

DIVERGING = SETTINGS.replace("base_lr: 0.1", "base_lr: 3e38")
TESTED = "test_iter: 1 test_interval: 1 test_initialization: false\n"


def spoil_row(row: int) -> None:
    with h5py.File("rows.h5", "r+") as file:
        file["data"][row, 2] = np.nan


@pytest.fixture
def bad_weights(folder: Path) -> str:
    solver = make_solver()
    weights = solver.net.weights()
    weights["ip"][0][1, 2] = np.nan
    write_weights(folder / "bad.caffemodel", solver.net.param, weights)
    return "bad.caffemodel"


@pytest.mark.parametrize("more", ["", "snapshot_after_train: false", "snapshot: 1", TESTED])
def test_run_that_diverges_in_its_last_update_is_an_error(folder: Path, more: str) -> None:
    solver = make_solver(DIVERGING + "max_iter: 1 " + more)
    with pytest.raises(NonFiniteWeights, match=r"layer 'ip' \(InnerProduct\).*none yet.*base_lr"):
        solver.solve()
    assert "Optimization Done." not in lines_of(solver)
    assert not list(folder.glob("solver*.caffemodel"))


def test_best_snapshot_and_early_stopping_do_not_go_by_what_diverged(folder: Path) -> None:
    """An Accuracy of NaN scores is 1, better than any."""
    more = 'snapshot_best: "accuracy" early_stopping { output: "accuracy" patience: 3 }'
    solver = make_solver(DIVERGING + TESTED + more)
    with pytest.raises(NonFiniteWeights):
        solver.solve()
    assert not Path("solver_best.caffemodel").exists()


def test_outputs_made_of_nan_are_not_the_best(folder: Path) -> None:
    """Of test data with a NaN, in finite weights."""
    write_rows(folder, "test", 1)
    net = Path("net.prototxt")
    test_data = STUDENT.replace("rows.txt", "test.txt")
    Path("test.prototxt").write_text(test_data)
    with h5py.File("test.h5", "r+") as file:
        file["data"][:, 0] = np.nan
    text = SETTINGS.replace('net: "net.prototxt"', 'train_net: "net.prototxt" test_net: ')
    text = text.replace("test_net: ", 'test_net: "test.prototxt" ')
    assert net.exists()
    solver = solved(text + TESTED + 'snapshot_best: "accuracy"')
    warned = solver.log.matching("accuracy is meaningless, because blob 'ip' has NaN")  # type: ignore[attr-defined]
    assert warned
    assert not Path("solver_best.caffemodel").exists()


@pytest.mark.parametrize("more", ["", "iter_size: 3"])
def test_nan_in_the_data_is_located(folder: Path, more: str) -> None:
    spoil_row(6)
    solver = make_solver(SETTINGS + more)
    with pytest.raises(NonFiniteLoss) as error:
        solver.solve()
    message = str(error.value)
    assert "first appears in blob 'data', top 0 of layer 'data' (HDF5Data)" in message
    assert "1 NaN of 16 values" in message
    assert "sample 2 of the batch" in message or "sample 6 of the data" in message
    assert "Last snapshot: none yet" in message


def test_weights_that_are_loaded_with_nan_are_located(folder: Path, bad_weights: str) -> None:
    solver = make_solver()
    solver.load_weights(bad_weights)
    with pytest.raises(NonFiniteLoss, match=r"in parameter blob 0 of layer 'ip' \(InnerProduct\)"):
        solver.solve()


def score(weights: str) -> int:
    return run_test(["-model", "net.prototxt", "-weights", weights, "-iterations", "2"])


def test_weights_with_nan_have_no_score(bad_weights: str, capfd: pytest.CaptureFixture) -> None:
    assert score(bad_weights) == 1
    printed = capfd.readouterr().err
    assert "parameter blob 0 of layer 'ip' (InnerProduct) has 1 NaN of 12 values" in printed
    assert "accuracy = " not in printed


def test_data_with_nan_has_no_score(folder: Path, capfd: pytest.CaptureFixture) -> None:
    weights, _ = make_solver().snapshot()
    assert score(str(weights)) == 0
    spoil_row(ROWS - 5)
    capfd.readouterr()
    assert score(str(weights)) == 1
    printed = capfd.readouterr().err
    assert "accuracy, loss: no score, for in batch 1 NaN first appears in blob 'data'" in printed
