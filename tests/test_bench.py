"""That the bench runs and prints what it measured. Nothing here asserts how fast anything is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from caffe_kd.cli import bench

ROOT = Path(__file__).parents[1]


@pytest.fixture
def small(tmp_path: Path) -> bench.Bench:
    return bench.Bench(tmp_path, rounds=1, iterations=2)


def test_tool_prints_the_machine_and_a_table_and_writes_the_figures(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "bench.py"), "-only", "lenet,distil_lenet"]
    command += ["-rounds", "1", "-iterations", "2", "-json", "figures.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert lines[0].startswith(f"cpu {figures['machine']['cpu']}, cores ")
    assert len(lines) == 2 + len(figures["rows"])
    compared = [row["compared"] for row in figures["rows"] if row["ratio"] is not None]
    assert compared == ["plain PyTorch loop", "usual script", "student on one batch"]
    for row in figures["rows"]:
        assert len(row["rounds"]) == 1
        assert row["seconds"] > 0


@pytest.mark.parametrize("name", ["LENET", "SMALL_LENET", "MLP_800", "MLP_1200"])
def test_contenders_train_the_same_net(name: str, tmp_path: Path) -> None:
    from caffe_kd.cli import bench_contenders as by

    net = getattr(by, name)
    ours = by.make_solver(tmp_path, net, None, by.BATCH).net
    theirs = by.module(net)
    shapes = [p.shape for p in theirs.parameters()]
    assert [p.blob.shape for p in ours.params] == shapes
    for mine, other in zip(ours.params, theirs.parameters(), strict=True):
        other.data.copy_(mine.blob.data)
    ours()
    logits = theirs(ours.blobs["data"])
    torch.testing.assert_close(ours.blobs["logits"], logits, rtol=1e-4, atol=1e-5)


def test_mlp_pair_is_measured_against_script_and_student(small: bench.Bench) -> None:
    rows = bench.distil_mlp(small)
    assert [row.compared for row in rows if row.ratio] == ["usual script", "student on one batch"]


def test_start_runs_new_processes(small: bench.Bench) -> None:
    first = bench.start(small, samples=128)[-1]
    assert len(first.rounds) == 1
    assert list(small.folder.glob("run_*.log")), "nothing was trained"


def test_layers_are_parsed_and_built(small: bench.Bench) -> None:
    parsed, built = bench.layers(small, count=9)
    assert parsed.what == "parse 9 layers"
    assert built.what == "parse and build 9 layers"


def test_weights_are_loaded_from_a_file_of_the_size(small: bench.Bench) -> None:
    (ratio,) = (row.ratio for row in bench.weights(small, megabytes=1) if row.ratio)
    assert ratio > 0
    assert (small.folder / "large.caffemodel").stat().st_size == pytest.approx(10**6, rel=0.1)


def test_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    row = bench.row("m", "ours", [1.0, 2.0, 4.0], "", ("other", [2.0, 8.0, 4.0]))
    assert (row.seconds, row.ratio) == (2.0, 2.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-only", "lent"], "Did you mean 'lenet'"),
        (["-rounds", "0"], "-rounds must be at least 1"),
        (["-iterations", "0"], "-iterations must be at least 1"),
    ],
)
def test_wrong_flag_is_an_error(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(arguments) == 2
    assert message in capsys.readouterr().err
