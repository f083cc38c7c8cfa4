"""What the doctor says of batch normalisation's averages, beforehand and of trained weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_kd.cli.refresh_statistics import main as refresh
from caffe_kd.cli.train import main as train
from tests.deep_batch_norm import ITERATIONS, write_net, write_solver
from tests.doctor.examining import found

LONG, LAG = "averages_longer_than_training", "averages_lag"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_net(tmp_path)


def test_window_is_compared_with_the_length_of_the_training() -> None:
    solver = Path("solver.prototxt")
    write_solver(Path())
    ((severity, what),) = found(solver, LONG)
    assert severity == "warning"
    assert "layer 'bn0' (BatchNorm) and 5 more: keep averages over about 1,000 batches" in what
    assert f"the training has {ITERATIONS}" in what
    write_solver(Path(), more="iter_size: 150")
    assert found(solver, LONG) == []
    write_solver(Path(), more="refresh_statistics: 20")
    assert found(solver, LONG) == []
    write_solver(Path())
    write_net(Path(), more="batch_norm_param { moving_average_fraction: 0.8 }")
    assert found(solver, LONG) == []


def test_kept_statistics_are_compared_with_those_of_a_few_batches() -> None:
    write_solver(Path())
    assert train(["-solver", "solver.prototxt"]) == 0
    weights = f"s_iter_{ITERATIONS}.caffemodel"
    occurrences = found(Path("net.prototxt"), LAG, weights=weights)
    assert len(occurrences) >= 5
    assert all(severity == "warning" for severity, _ in occurrences)
    assert "layer 'bn3' (BatchNorm): the running variance was " in occurrences[-3][1]
    new = ["-weights", weights, "-output", "new.caffemodel", "-iterations", "12"]
    assert refresh(["-model", "net.prototxt", *new]) == 0
    assert found(Path("net.prototxt"), LAG, weights="new.caffemodel") == []


def test_teacher_whose_statistics_lag_is_found_in_the_students_solver() -> None:
    write_solver(Path())
    assert train(["-solver", "solver.prototxt"]) == 0
    Path("distiller.prototxt").write_text(
        'layer { name: "kd" type: "DistillingLoss" bottom: "last" bottom: "t/last" top: "kd" '
        "include { phase: TRAIN } }"
    )
    Path(f"s_iter_{ITERATIONS}.caffemodel").rename("t.caffemodel")
    teacher = 'teacher { name: "t" net: "net.prototxt" weights: "t.caffemodel" }'
    write_solver(Path(), more=f'{teacher} distiller_net: "distiller.prototxt"')
    occurrences = found(Path("solver.prototxt"), LAG)
    assert any(
        "layer 't/bn3' (BatchNorm): the running variance was " in what for _, what in occurrences
    )
    assert not any("layer 'bn3'" in what for _, what in occurrences)  # it has no weights yet


@pytest.mark.parametrize("name", ["mnist/teacher_solver", "mnist/kd_solver"])
def test_examples_have_averages_that_fit_their_length(name: str) -> None:
    solver = Path(__file__).parents[2] / "prototxt" / f"{name}.prototxt"
    assert found(solver, LONG, shapes={"": (1, 28, 28)}) == []
