from __future__ import annotations

import gzip
import re
from pathlib import Path

import onnxruntime as ort
import pytest
import torch

from caffe_kd.cli.quickstart import main
from caffe_kd.data.mnist import Digits
from caffe_kd.logs.log_parser import parse_log
from caffe_kd.net import load_net
from caffe_kd.proto import caffe_pb2 as pb


@pytest.fixture(scope="module")
def outcome(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, str]:
    """The quick start on scikit-learn's digits, a few passes, with what it printed."""
    import contextlib
    import io

    folder = tmp_path_factory.mktemp("quickstart")
    printed = io.StringIO()
    with contextlib.chdir(folder) if hasattr(contextlib, "chdir") else _chdir(folder):
        with contextlib.redirect_stdout(printed):
            status = main(["-no_download", "-dir", "digits", "-output", "out", "-passes", "3"])
    assert status == 0, printed.getvalue()
    return folder, printed.getvalue()


def _chdir(folder: Path):  # type: ignore[no-untyped-def]  # contextlib.chdir came with 3.11
    import contextlib
    import os

    @contextlib.contextmanager
    def change():  # type: ignore[no-untyped-def]
        before = os.getcwd()
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)

    return change()


def test_quickstart_prints_the_table_and_where_things_are(outcome: tuple[Path, str]) -> None:
    _, printed = outcome
    rows = [line for line in printed.splitlines() if re.search(r" of 360 +\d+\.\d+ %", line)]
    assert [row.split("  ")[0] for row in rows] == ["teacher", "student alone", "student distilled"]
    assert "ONNX file" in printed and "latency/image" in printed and "trained in" in printed
    assert "not MNIST's" in printed
    assert "All files are in out" in printed


def test_table_and_curves_have_one_accuracy_of_a_net(outcome: tuple[Path, str]) -> None:
    folder, printed = outcome
    errors = [int(m) for m in re.findall(r" (\d+) of 360 +\d+\.\d+ %", printed)]
    names = ("teacher", "student_alone", "student")
    logs = [parse_log(folder / "out" / f"{name}.log") for name in names]
    for wrong, log in zip(errors, logs, strict=True):
        assert log.tests[0][-1].outputs["accuracy"] == pytest.approx(1 - wrong / 360, abs=1e-5)


def test_quickstart_prints_one_line_a_stage_with_the_time_left(outcome: tuple[Path, str]) -> None:
    lines = outcome[1].splitlines()
    stages = [x for x in lines if re.fullmatch(r"[a-z ]+: \d+ s(; about \d+ (s|min) left)?", x)]
    assert [x.partition(":")[0] for x in stages] == [
        "teacher",
        "student alone",
        "student distilled",
    ]
    assert ["left" in x for x in stages] == [True, True, False]
    assert len(lines) < 25


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_quickstart_trains_on_the_device_that_is_asked_for(
    outcome: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(outcome[0])
    words = ["-no_download", "-dir", "digits", "-output", "gpu", "-passes", "1", "-gpu", "0"]
    assert main(words) == 0
    for name in ("teacher", "student_alone", "student"):
        assert (
            "Use CPU. (-gpu 0, but there is no CUDA device)" in Path(f"gpu/{name}.log").read_text()
        )


def test_quickstart_leaves_everything_in_one_folder(outcome: tuple[Path, str]) -> None:
    out = outcome[0] / "out"
    for name in ("student.onnx", "teacher.onnx", "deploy.prototxt", "training.png", "student.log"):
        assert (out / name).is_file(), name
    net = load_net(out / "deploy.prototxt", pb.TEST)
    (weights,) = out.glob("student_iter_*.caffemodel")
    net.load_weights(weights)
    session = ort.InferenceSession(out / "student.onnx")
    assert [i.name for i in session.get_inputs()] == net.inputs == ["data"]
    assert parse_log(out / "student.log").train[0].outputs.keys() >= {"distilling_loss"}


def test_student_is_at_least_ten_times_smaller(outcome: tuple[Path, str]) -> None:
    numbers = [
        int(match.replace(",", ""))
        for match in re.findall(r"^(?:teacher|student \w+) +([\d,]+) ", outcome[1], re.MULTILINE)
    ]
    teacher, alone, distilled = numbers
    assert alone == distilled
    assert teacher >= 10 * distilled


def test_second_run_reuses_what_is_there_and_says_so(
    outcome: tuple[Path, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(outcome[0])
    before = (outcome[0] / "out" / "student.onnx").stat().st_mtime_ns
    flags = ["-no_download", "-dir", "digits", "-output", "out", "-passes", "3"]
    assert main(flags) == 0
    printed = capsys.readouterr().out
    assert printed.count("reused, as its inputs have not changed") == 3
    assert printed.count("(reused)") == 3
    assert (outcome[0] / "out" / "student.onnx").stat().st_mtime_ns == before


def test_changed_inputs_are_trained_again(
    outcome: tuple[Path, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(outcome[0])
    (outcome[0] / "out" / "student_alone.json").write_text("{damaged")
    flags = ["-no_download", "-dir", "digits", "-output", "out", "-passes", "3"]
    assert main(flags) == 0
    assert capsys.readouterr().out.count("(reused)") == 2


def test_compressed_digits_of_another_folder_will_do(
    outcome: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for path in (outcome[0] / "digits").iterdir():
        with gzip.open(tmp_path / f"{path.name}.gz", "wb") as packed:
            packed.write(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    digits = Digits("digits", tmp_path)
    monkeypatch.setattr("caffe_kd.data.mnist.get_mnist", lambda *_, **__: digits)
    assert main(["-output", "out", "-passes", "1"]) == 0
    assert "of 360" in capsys.readouterr().out


def test_passes_below_one_are_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-passes", "0"]) == 2
    assert "-passes must be at least 1" in capsys.readouterr().err
