from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from caffe_kd.cli.draw_net import main

ROOT = Path(__file__).parents[2]
KD = str(ROOT / "prototxt" / "mnist" / "kd_solver.prototxt")
LENET = str(ROOT / "prototxt" / "mnist" / "lenet_train_test.prototxt")


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def places(path: str) -> dict[str, float]:
    """Return where each word of an SVG begins, from the left."""
    found = {}
    for element in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text"):
        where = element.get("x") or element.get("transform", "").partition("(")[2].split()[0]
        found[element.text] = float(where.rstrip(")"))
    return found


def test_solver_is_drawn_with_teacher_and_student_side_by_side() -> None:
    assert main([KD, "kd.svg", "-input_shape", "1,28,28"]) == 0
    at = places("kd.svg")
    assert at["teacher/conv1"] < at["distilling_loss"] < at["ip1"]
    assert at["teacher/conv1"] < at["mnist"] < at["ip1"]
    assert {"teacher", "student", "64 × 32 × 24 × 24", "64 × 128"} <= set(at)
    assert "accuracy" not in at  # TRAIN alone


def test_net_is_drawn_in_all_phases_or_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([LENET, "lenet.png"]) == 0
    assert "wrote lenet.png: 11 layers" in capsys.readouterr().err
    with Image.open("lenet.png") as image:
        assert image.format == "PNG"
    assert main([LENET, "test.svg", "-phase", "TEST", "--rankdir", "LR", "-display_lrm"]) == 0
    assert {"accuracy", "lr_mult 1, 2"} <= set(places("test.svg"))
    assert main([LENET, "lenet.dot"]) == 0
    assert Path("lenet.dot").read_text().startswith("digraph Net {")


def test_direction_of_a_net_is_caffes_unless_it_is_given() -> None:
    small = ROOT / "prototxt" / "mnist" / "student_train_test.prototxt"
    for words, way in (
        ([LENET], "LR"),
        ([str(small), "--phase", "TRAIN", "--display_lrm"], "LR"),
        ([KD], "TB"),
        ([LENET, "--rankdir", "BT", "--phase=ALL"], "BT"),
    ):
        assert main([words[0], "net.dot", *words[1:]]) == 0
        assert f"rankdir={way};" in Path("net.dot").read_text()


def test_absent_data_leaves_shapes_out_unless_they_are_given() -> None:
    assert main([LENET, "bare.svg"]) == 0
    assert not any("×" in word for word in places("bare.svg"))
    assert main([LENET, "given.svg", "-input_shape", "1,28,28"]) == 0
    assert "64 × 20 × 24 × 24" in places("given.svg")


def test_mistakes_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([LENET, "lenet.gif"]) == 2
    assert "OUTPUT must end with .png, .svg, .pdf, .dot, .gv" in capsys.readouterr().err
    assert main(["nothing.prototxt", "net.png"]) == 1
    assert "nothing.prototxt: no such file" in capsys.readouterr().err
    assert main([LENET, "net.png", "-rankdir", "XX"]) == 2
    assert "rankdir is one of" in capsys.readouterr().err
    assert not Path("net.png").exists()
