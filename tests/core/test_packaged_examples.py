from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from caffe_kd.cli import flags
from caffe_kd.cli.commands import commands
from caffe_kd.core import examples
from caffe_kd.core.errors import CaffeKDError

ROOT = Path(__file__).parents[2]
KD = "prototxt/mnist/kd_solver.prototxt"


def test_example_is_found_from_any_folder_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert flags.prototxt(KD) == flags.prototxt(f"./{KD}") == str(ROOT / KD)
    note = f"note: {KD} is not here: using the example {ROOT / KD}\n"
    assert capsys.readouterr().err.startswith(note)


def test_a_file_in_the_current_folder_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(KD).parent.mkdir(parents=True)
    Path(KD).touch()
    assert flags.prototxt(KD) == KD
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "path",
    ["", "prototxt", "prototxt/mnist", "prototxt/none.prototxt", "kd_solver.prototxt",
     "prototxt/../setup.py", "a\0b", f"/{KD}", f"elsewhere/{KD}"],
)  # fmt: skip
def test_other_names_stay_as_they_are(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert flags.prototxt(path) == path


def test_each_of_several_nets_may_be_an_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    net = "prototxt/mnist/student_train_test.prototxt"
    assert flags.prototxt(f"own.prototxt,{net}") == f"own.prototxt,{ROOT / net}"


@pytest.mark.parametrize("name", commands())
def test_every_prototxt_that_a_command_reads_may_be_an_example(name: str) -> None:
    for action in import_module(f"caffe_kd.cli.{name}").parser()._actions:
        reads = {"net", "model", "solver", "teacher_solver", "student_solver"}
        if action.dest in reads and "onnx" not in str(action.help) and action.metavar:
            assert action.type is flags.prototxt, f"{name}: {action.dest}"


def test_without_the_examples_their_names_are_files_like_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(examples, "_PACKAGE", tmp_path / "caffe_kd")
    assert examples.packaged(KD) is None
    with pytest.raises(CaffeKDError, match="example nets are missing from this installation"):
        examples.folder("mnist")
