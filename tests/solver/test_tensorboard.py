"""The points for TensorBoard, read back with its own reader."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from caffe_kd.core.errors import CaffeKDError
from caffe_kd.solver.callbacks.tensorboard import TensorBoard
from caffe_kd.solver.options import Options
from caffe_kd.solver.plan import read_plan
from caffe_kd.solver.solver import Solver
from tests.solver.training import (
    DISTIL,
    DISTILLER,
    MemoryLog,
    assert_same_weights,
    lines_of,
    weights_of,
)

BOARD = Path("board")
WITH_LABEL = DISTILLER.replace(
    'top: "kd"', 'bottom: "label" top: "kd" distilling_loss_param { alpha: 0.6 }'
)
SETTINGS = (
    DISTIL + "display: 2 test_iter: 2 test_interval: 3 snapshot: 4 momentum: 0.9 "
    'snapshot_prefix: "run" average_loss: 3\n'
)


def solver_of(settings: str = SETTINGS, max_iter: int = 8, **options: Any) -> Solver:
    Path("solver.prototxt").write_text(f"{settings} max_iter: {max_iter}\n")
    asked = Options(**{"tensorboard": BOARD, **options})
    return Solver(read_plan("solver.prototxt"), MemoryLog(), options=asked)


def solve(solver: Solver, state: str | None = None) -> Solver:
    """Train; a second event file of a folder is read second only if its second is another."""
    newest = max((int(path.name.split(".")[3]) for path in BOARD.glob("events*")), default=0)
    while int(time.time()) <= newest:
        time.sleep(0.05)
    solver.solve(state)
    return solver


def read(folder: Path = BOARD) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0})
    events.Reload()
    return events


def points(tag: str, folder: Path = BOARD) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(tag)]


def test_points_are_what_the_log_has(folder: Path) -> None:
    (folder / "distiller.prototxt").write_text(WITH_LABEL)
    solver = solve(solver_of(gradient_shares=3))
    tags = set(read().Tags()["scalars"])
    assert tags == {
        *("loss", "learning_rate", "train/kd", "train/loss", "test/accuracy", "test/loss"),
        *("terms/loss", "terms/kd/soft", "terms/kd/hard"),
        *("gradient_shares/loss", "gradient_shares/kd/soft", "gradient_shares/kd/hard"),
    }
    for tag, pattern in (
        ("loss", r"Iteration [0246] .*loss = "),
        ("train/kd", "Train net output #0: kd = "),
        ("test/accuracy", "Test net output #0: accuracy = "),
        ("gradient_shares/kd/soft", "Gradient share: kd/soft = "),
    ):
        logged = [float(x.split(" = ")[1].split()[0]) for x in solver.log.matching(pattern)]
        assert [value for _, value in points(tag)] == pytest.approx(logged, rel=6e-4), tag
    assert [step for step, _ in points("loss")] == [0, 2, 4, 6]
    assert [step for step, _ in points("test/accuracy")] == [0, 3, 6]
    assert [step for step, _ in points("gradient_shares/loss")] == [0, 3, 6]
    assert points("learning_rate") == [(step, pytest.approx(0.1)) for step in (0, 2, 4, 6)]


def test_terms_have_their_weights(folder: Path) -> None:
    weighted = WITH_LABEL.replace('top: "kd"', 'top: "kd" loss_weight: 3')
    (folder / "distiller.prototxt").write_text(weighted)
    solve(solver_of())
    soft, hard, whole = (points(tag) for tag in ("terms/kd/soft", "terms/kd/hard", "train/kd"))
    for (_, a), (_, b), (_, c) in zip(soft, hard, whole, strict=True):
        assert a + b == pytest.approx(3 * c)


def test_resumed_run_has_each_step_once(folder: Path) -> None:
    solve(solver_of(max_iter=12, tensorboard=folder / "through"))
    solve(solver_of(max_iter=11))  # beyond the snapshot at 8, with points that are lost
    solve(solver_of(max_iter=12), "run_iter_8.solverstate")
    assert len(list(BOARD.iterdir())) == 2
    for tag in read().Tags()["scalars"]:
        steps = [step for step, _ in points(tag)]
        assert steps == sorted(set(steps)), tag
        assert points(tag) == points(tag, folder / "through")
    assert [step for step, _ in points("test/loss")] == [0, 3, 6, 9, 12]


def test_new_run_in_the_folder_replaces_the_earlier_points(folder: Path) -> None:
    solve(solver_of(max_iter=8))
    solve(solver_of(max_iter=3))
    assert [step for step, _ in points("loss")] == [0, 2]


def test_points_are_on_the_disk_at_once(folder: Path) -> None:
    solver = solver_of(max_iter=8)
    solver.step(3)  # and no end, as where the process is killed
    assert [step for step, _ in points("loss")] == [0, 2]


def test_training_is_the_same_to_the_bit(folder: Path) -> None:
    written = solve(solver_of(tensorboard_histograms=True))
    plain = solve(solver_of(tensorboard=None))
    assert_same_weights(weights_of(written), weights_of(plain))
    assert lines_of(written)[-1] == lines_of(plain)[-1]


def test_nothing_is_imported_if_it_is_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    solver = solve(solver_of(tensorboard=None))
    assert not any(isinstance(callback, TensorBoard) for callback in solver.callbacks)


def test_histograms_are_the_parameters_on_request(folder: Path) -> None:
    solve(solver_of())
    assert read().Tags()["histograms"] == []
    solver = solve(solver_of(max_iter=9, tensorboard_histograms=True))
    events = read()
    assert sorted(events.Tags()["histograms"]) == ["weights/ip/0", "weights/ip/1"]
    last = events.Histograms("weights/ip/0")[-1]
    weights = weights_of(solver)["ip"][0]
    assert (last.step, last.histogram_value.num) == (9, weights.size)
    assert last.histogram_value.sum == pytest.approx(weights.astype(np.float64).sum())


def test_histograms_without_tests_come_with_the_display(folder: Path) -> None:
    settings = 'train_net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" display: 2\n'
    solve(solver_of(settings, max_iter=3, tensorboard_histograms=True))
    assert [event.step for event in read().Histograms("weights/ip/0")] == [0, 2]


def test_several_test_nets_have_groups_of_their_own(folder: Path) -> None:
    settings = SETTINGS.replace(
        'net: "net.prototxt"', 'train_net: "net.prototxt" ' + 2 * 'test_net: "net.prototxt" ', 1
    ).replace("test_iter: 2", "test_iter: 2 test_iter: 1")
    solve(solver_of(settings, max_iter=3))
    tags = {tag for tag in read().Tags()["scalars"] if tag.startswith("test")}
    assert tags == {f"test_{i}/{name}" for i in (0, 1) for name in ("accuracy", "loss")}


def test_output_with_several_values_has_a_point_for_each(folder: Path) -> None:
    net = folder / "net.prototxt"
    extra = 'layer { name: "p" type: "Softmax" bottom: "ip" top: "p" include { phase: TEST } }\n'
    net.write_text(net.read_text() + extra)
    solve(solver_of(max_iter=3))
    tags = [tag for tag in read().Tags()["scalars"] if tag.startswith("test/p/")]
    assert len(tags) == 4 * 3


def test_folder_that_cannot_be_made_is_named(folder: Path) -> None:
    BOARD.write_text("a file")
    with pytest.raises(CaffeKDError, match="board: -tensorboard: no event file can be written"):
        solver_of().solve()


def test_training_goes_on_without_points_on_a_full_disk(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    def full(self: SummaryWriter) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "flush", full)
    solver = solve(solver_of())
    assert solver.iter == 8
    (line,) = solver.log.matching("no more points")
    assert line == (
        "board: no more points for TensorBoard from iteration 0 on: No space left on device"
    )
