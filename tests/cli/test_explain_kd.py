from __future__ import annotations

from pathlib import Path

import pytest

from caffe_kd.cli import train
from caffe_kd.cli.explain_kd import main
from tests.cli.small import ROOT, write_examples


def test_example_is_explained_though_its_teacher_is_not_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_examples(tmp_path)
    assert main(["-solver", str(tmp_path / "kd_solver.prototxt")]) == 0
    out = capsys.readouterr().out
    assert "TRAIN, stage distil: what is minimised" in out
    assert "loss = 0.9 * soft + 0.1 * hard" in out
    assert "student: ip1, ip2" in out
    assert "warning: weights_missing" in out
    assert out.endswith("0 errors, 1 warning, 0 notes\n")


def test_error_among_the_findings_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_examples(tmp_path)
    distiller = tmp_path / "distiller.prototxt"
    distiller.write_text(distiller.read_text().replace('"teacher/ip2"', '"ip2"'))
    assert main(["-solver", str(tmp_path / "kd_solver.prototxt")]) == 1
    assert "both bottoms are 'ip2'" in capsys.readouterr().out


def test_usage_errors_have_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    net = ROOT / "prototxt" / "mnist" / "student_train_test.prototxt"
    assert main(["-solver", str(net)]) == 2
    assert "is a net. Give the solver that trains it" in capsys.readouterr().err
    assert main(["-solver", str(tmp_path / "gone.prototxt")]) == 1
    capsys.readouterr()
    kd = ROOT / "prototxt" / "distillation" / "kd_solver.prototxt"  # its data need not be there
    assert main(["-solver", str(kd), "-alpha", "7"]) == 2
    assert "-alpha must be in 0..1. Received: 7" in capsys.readouterr().err
    assert main(["-solver", str(kd), "-temperature", "0"]) == 2
    assert "-temperature must be above 0. Received: 0" in capsys.readouterr().err


def test_flags_of_the_train_command_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_examples(tmp_path)
    solver = ["-solver", str(tmp_path / "kd_solver.prototxt")]
    assert train.main(["-solver", str(tmp_path / "teacher_solver.prototxt"), "-no_progress"]) == 0
    assert main([*solver, "-temperature", "8", "-alpha", "0.5", "-teacher_cache", "disk"]) == 0
    out = capsys.readouterr().out
    assert "temperature 8 from the command line instead of 4" in out
    assert "loss = 0.5 * soft + 0.5 * hard" in out and "p = softmax(z / 8)" in out
    assert (
        "teacher_cache disk: caches the outputs of 14 frozen layers: teacher/ip2 for 96 samples"
        in out
    )
    net = tmp_path / "student_train_test.prototxt"
    net.write_text(net.read_text().replace("scale: 0.00390625", "scale: 0.00390625 mirror: true"))
    assert main([*solver, "-teacher_cache", "memory"]) == 1
    assert "training refuses -teacher_cache memory: layer 'mnist'" in capsys.readouterr().out
    assert main(["-solver", str(tmp_path / "student_solver.prototxt"), "-alpha", "0.5"]) == 2
    assert "need a DistillingLoss layer" in capsys.readouterr().err
