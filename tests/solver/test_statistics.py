"""Statistics of batch normalisation in training: what lags is named, and what is asked renewed."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest

from caffe_kd.core.errors import SolverError
from caffe_kd.logs.log import Log
from caffe_kd.net import Net
from caffe_kd.proto.binary import read_weights
from caffe_kd.solver.plan import read_plan
from caffe_kd.solver.solver import Solver
from tests.deep_batch_norm import ITERATIONS, write_net, write_solver

REFRESH = "refresh_statistics: 3"
RANDOM = "mirror: true"  # the data layers' own random numbers


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_net(tmp_path)
    return tmp_path


def run(folder: Path, more: str = "", state: str | None = None, **options: int) -> tuple[Net, str]:
    """Train, or go on from a state; return the train net and the log."""
    write_solver(folder, more, **options)
    stream = io.StringIO()
    solver = Solver(read_plan(folder / "solver.prototxt"), Log(stream=stream, progress=False))
    solver.solve(state)
    return solver.net, stream.getvalue()


def last_accuracy(log: str) -> float:
    return float(re.findall(r"Test net output #\d: acc = (\S+)", log)[-1])


def learned(net: Net) -> dict[str, list[np.ndarray]]:
    """Return the blobs of the layers that learn."""
    return {name: blobs for name, blobs in net.weights().items() if not name.startswith("bn")}


def test_lag_is_named_after_a_test_with_its_remedy(folder: Path) -> None:
    _, log = run(folder)
    assert last_accuracy(log) < 0.5
    (line,) = [line for line in log.splitlines() if line.startswith("W")]
    assert re.search(
        r"Test net \(#0\): acc = 0\.\d+, but (0\.9\d*|1) with the statistics of each batch", line
    )
    assert "They average over about 1,000 batches" in line
    assert "refresh_statistics: 50 in the solver" in line


def test_lag_shows_in_the_loss_where_there_is_no_accuracy(folder: Path) -> None:
    net = Path("net.prototxt").read_text()
    start = net.index('layer { name: "acc"')
    Path("net.prototxt").write_text(net[:start] + net[net.index('layer { name: "loss"') :])
    _, log = run(folder)
    assert re.search(r"^W.*loss = 2\.\d+, but 0\.\d+ with the statistics of each batch", log, re.M)


def test_averages_that_keep_up_give_no_warning(folder: Path) -> None:
    write_net(folder, more="batch_norm_param { moving_average_fraction: 0.5 }")
    _, log = run(folder)
    assert last_accuracy(log) > 0.9
    assert not re.search("^W", log, re.M)


def test_refreshed_averages_are_tested_and_kept_in_snapshots(folder: Path) -> None:
    _, log = run(folder, REFRESH)
    assert last_accuracy(log) > 0.9
    assert not re.search("^W", log, re.M)
    scale = {w.name: w.blobs for w in read_weights(f"s_iter_{ITERATIONS}.caffemodel")}["bn3"][2]
    assert scale is not None and scale[0] == pytest.approx(2.997)  # 1 + 0.999 + 0.999^2


def test_weights_are_those_of_a_training_without(folder: Path) -> None:
    write_net(folder, transform=RANDOM)
    often = "test_interval: 7 snapshot: 5"
    nets = [run(folder, more, iterations=20)[0] for more in (f"{often} {REFRESH}", often, "")]
    for name, blobs in learned(nets[0]).items():
        for net in nets[1:]:
            for blob, other in zip(blobs, learned(net)[name], strict=True):
                np.testing.assert_array_equal(blob, other)


def test_resuming_is_exact_to_the_bit(folder: Path) -> None:
    write_net(folder, transform=RANDOM)
    more = f"test_interval: 6 snapshot: 8 {REFRESH}"
    run(folder, more, iterations=20)
    whole = Path("s_iter_20.caffemodel").read_bytes()
    run(folder, more, state="s_iter_8.solverstate", iterations=20)
    assert Path("s_iter_20.caffemodel").read_bytes() == whole


def test_nets_without_such_layers_and_mean_teachers_are_refused(folder: Path) -> None:
    write_net(folder, more="batch_norm_param { use_global_stats: true }")
    with pytest.raises(SolverError, match=r"solver.prototxt:\d+: the net has no layer in TRAIN"):
        run(folder, REFRESH)
    write_net(folder)
    Path("distiller.prototxt").write_text(
        'layer { name: "kd" type: "DistillingLoss" bottom: "last" bottom: "mean/last" top: "kd" '
        "include { phase: TRAIN } }"
    )
    mean = 'teacher { name: "mean" ema: 0.9 } distiller_net: "distiller.prototxt"'
    with pytest.raises(SolverError, match="a teacher that averages the student"):
        run(folder, f"{REFRESH} {mean}")
