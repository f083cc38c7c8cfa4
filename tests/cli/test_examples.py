"""The command that lists the examples and copies some."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from caffe_kd.cli.examples import main
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from tests.commands import run_main

EXAMPLES = Path(__file__).parents[2] / "prototxt"
FOLDERS = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
KD = Path("prototxt/mnist/kd_solver.prototxt")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def copied(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_every_folder_is_listed_with_a_line_and_its_examples(folder: Path) -> None:
    status, printed = run_main(main)
    assert status == 0
    assert re.findall(r"^(\w+): \S", printed, re.MULTILINE)[: len(FOLDERS)] == FOLDERS
    assert "](" not in printed
    for solver in EXAMPLES.glob("*/*solver.prototxt"):
        assert re.search(rf"\b{solver.stem.removesuffix('_solver')}\b", printed)
    assert copied(folder) == set()


@pytest.mark.parametrize("name", ["mnist/kd", str(KD), "mnist/kd_solver", "mnist/kd.prototxt"])
def test_an_example_is_copied_with_its_nets_and_its_teacher_s_solver(
    name: str, folder: Path
) -> None:
    status, printed = run_main(main, name)
    assert status == 0
    names = ("kd_solver", "teacher_solver", "student_train_test", "teacher_train_test", "distiller")
    assert copied(folder) == {f"prototxt/mnist/{n}.prototxt" for n in names}
    assert "caffe_kd get_mnist\n" in printed
    assert f"-solver {KD} " in printed
    assert KD.read_bytes() == (EXAMPLES / "mnist" / KD.name).read_bytes()


def test_what_an_onnx_teacher_is_exported_from_is_copied_too(folder: Path) -> None:
    assert main(["distillation/onnx_teacher"]) == 0
    assert "prototxt/distillation/teacher_solver.prototxt" in copied(folder)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_copied_with_what_its_files_name(name: str, folder: Path) -> None:
    assert main([name, "-output", "here/own"]) == 0
    names = copied(folder / "here" / "own")
    wanted = {p.relative_to(EXAMPLES).as_posix() for p in (EXAMPLES / name).glob("*.*")}
    assert {n for n in wanted if not n.endswith(".png")} <= names
    for path in (folder / "here" / "own").rglob("*solver.prototxt"):
        solver = text.read(path, pb.SolverParameter())
        for net in (solver.net, solver.distiller_net, *(t.net for t in solver.teacher)):
            assert not net or net.endswith(".onnx") or (path.parent / net).is_file()
        assert "prototxt/" not in path.read_text()  # it names the copy, not the example
    assert copied(folder) == {f"here/own/{n}" for n in names}


def test_what_was_edited_is_not_overwritten_without_force(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mnist/kd"]) == 0
    assert main(["mnist/kd"]) == 0  # the same again
    KD.write_text("edited")
    (KD.parent / "distiller.prototxt").unlink()
    capsys.readouterr()
    assert main(["mnist/kd"]) == 2
    assert f"not overwritten, for they differ: {KD}." in capsys.readouterr().err
    assert KD.read_text() == "edited"
    assert not (KD.parent / "distiller.prototxt").exists()
    assert main(["mnist/kd", "-force"]) == 0
    assert KD.read_bytes() == (EXAMPLES / "mnist" / KD.name).read_bytes()


@pytest.mark.parametrize("name", ["mnist/kdd", "mnits", "", "../tests", "mnist/distiller"])
def test_an_unknown_name_is_one_line(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name]) == 2
    error = capsys.readouterr().err
    assert f"there is no example '{name}'." in error and error.count("\n") == 1
    assert copied(folder) == set()
