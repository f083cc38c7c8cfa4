"""What is left, and said, when a disk is full: simulated by a limit to the size of files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from caffe_kd.cli import convert_mnist_data, export_onnx, make_deploy, plot_training_log, train
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import hdf5
from caffe_kd.proto.binary import read_weights
from tests.cli.small import write_examples

resource = pytest.importorskip("resource", reason="limits are set the POSIX way")
ROOT = Path(__file__).parents[1]
SOLVER = "student_solver.prototxt"


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Let no file grow beyond ``limit`` bytes."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_examples(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def unfinished(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob("*") if p.name.startswith(".") or "unfinished" in p.name]


@pytest.mark.parametrize("ending", ["", ".h5"])
def test_training_keeps_its_last_snapshot(
    folder: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = "snapshot_format: HDF5" if ending else ""
    content = Path(SOLVER).read_text()
    Path(SOLVER).write_text(content.replace("display: 3", f"display: 3 snapshot: 5 {kind}"))
    assert train.main(["-solver", SOLVER, "-max_iter", "5", "-no_progress"]) == 0
    stem = f"{folder.as_posix()}/student_alone_iter_"
    state, weights = (f"{stem}5.{n}{ending}" for n in ("solverstate", "caffemodel"))
    before = Path(weights).read_bytes()
    capsys.readouterr()
    with full_disk(100_000):
        assert train.main(["-solver", SOLVER, "-snapshot", state, "-no_progress"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err and "ignored" not in err
    assert f"No snapshot of iteration 10: {stem}10.caffemodel{ending}: cannot be written" in err
    assert f"File too large. Last one: {state}" in err
    assert Path(weights).read_bytes() == before
    assert len(read_weights(weights)) > 0
    assert not list(folder.glob("*iter_1*")) and not unfinished(folder)


# In these places of a file h5py does not fail but ends the process, unless it writes to memory.
@pytest.mark.parametrize("short", [100, 1000, 2000])
def test_hdf5_that_does_not_fit_does_not_end_the_process(tmp_path: Path, short: int) -> None:
    values = {"a": [np.ones(50_000, np.float32)]}
    hdf5.write_weights(tmp_path / "whole", ["a"], values, None)
    limit = (tmp_path / "whole").stat().st_size - short
    code = f"""
import resource, signal
import numpy as np
from caffe_kd.core.errors import CaffeKDError
from caffe_kd.proto import hdf5
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    hdf5.write_weights("part", ["a"], {{"a": [np.ones(50_000, np.float32)]}}, None)
except CaffeKDError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "part: cannot be written: File too large\n"
    assert done.stderr == "" and done.returncode == 0
    assert [p.name for p in tmp_path.iterdir()] == ["whole"]


def test_export_and_tools_report_it_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["-solver", SOLVER, "-max_iter", "3", "-no_progress"]) == 0
    (log,) = (str(p) for p in folder.glob("*.log"))
    net, weights = "student_train_test.prototxt", "student_alone_iter_3.caffemodel"
    digits = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"]
    runs = {
        "s.onnx": lambda: export_onnx.main(
            ["-model", net, "-weights", weights, "-output", "s.onnx"]
        ),
        "d.prototxt": lambda: make_deploy.main(["-model", net, "-output", "d.prototxt"]),
        "p.png": lambda: plot_training_log.main([log, "-output", "p.png"]),
        "db": lambda: convert_mnist_data.main([*digits, "db"]),
    }
    for name, run in runs.items():
        capsys.readouterr()
        with full_disk(100):
            assert run() == 1
        err = capsys.readouterr().err.strip()
        assert err.startswith(f"error: {name}: cannot be written: ") and "\n" not in err
        assert not Path(name).exists() and not unfinished(folder)


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="there is no /dev/full")
@pytest.mark.parametrize(
    "command",
    [["compose", "-solver", "kd_solver.prototxt"], ["make_deploy", "-model", "n"], ["-version"]],
)
def test_output_into_a_full_disk_is_one_line(folder: Path, command: list[str]) -> None:
    Path("teacher_iter_12.caffemodel").write_bytes(_caffemodel())
    Path("n").write_text(Path("student_train_test.prototxt").read_text())
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "caffe_kd", *command],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.stderr == "error: No space left on device\n" and done.returncode == 1


def _caffemodel() -> bytes:
    net = pb.NetParameter()
    net.layer.add(name="a")
    content: bytes = net.SerializeToString()
    return content
