"""The command that lists a net's layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_kd.cli.summarize import main

NET = """
name: "small"
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" include { phase: TRAIN } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 10 } }
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(NET)


def test_summary_lists_layers_shapes_and_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["net.prototxt"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["layer", "type", "top", "parameters", "multiply-adds"]
    # 4 * 3 * 3 * 3 + 4 parameters, of which the weights work at 6 * 6 places; 144 * 10 + 10.
    assert rows[1:4] == [
        ["in", "Input", "2x3x8x8", "-", "-"],
        ["conv", "Convolution", "2x4x6x6", "112", "3,888"],
        ["ip", "InnerProduct", "2x10", "1,450", "1,440"],
    ]
    assert " ".join(rows[4]).startswith("1,562 parameters, 5.33 k multiply-adds a record")


def test_phase_chooses_the_layers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["net.prototxt", "-phase", "TRAIN"]) == 0
    assert "\ndrop   Dropout" in capsys.readouterr().out


def test_net_with_a_fault_lists_what_can_be_built(capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.prototxt").write_text(NET.replace("num_output: 10", "num_output: 0"))
    assert main(["net.prototxt"]) == 1
    captured = capsys.readouterr()
    assert "net.prototxt:7: layer 'ip' (InnerProduct): num_output must be" in captured.err
    assert "Convolution" in captured.out and "InnerProduct" not in captured.out


def test_net_without_its_data_is_listed_with_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    data = """layer { name: "data" type: "Data" top: "data" top: "label"
  data_param { source: "gone_lmdb" batch_size: 5 backend: LMDB }
  transform_param { crop_size: 8 } }
"""
    lines = NET.splitlines(True)
    Path("net.prototxt").write_text("".join([*lines[:2], data, *lines[3:]]))
    assert main(["net.prototxt"]) == 0
    captured = capsys.readouterr()
    assert "note: " in captured.err and "gone_lmdb" in captured.err
    assert "5x4x6x6" in captured.out


def test_shape_of_absent_records_may_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    data = """layer { name: "data" type: "Data" top: "data" top: "label"
  data_param { source: "gone_lmdb" batch_size: 5 backend: LMDB } }
"""
    lines = NET.splitlines(True)
    Path("net.prototxt").write_text("".join([*lines[:2], data, *lines[3:]]))
    assert main(["net.prototxt"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and "as -input_shape data=3,28,28" in captured.err
    assert main(["net.prototxt", "-input_shape", "3,10,10"]) == 0
    assert "5x4x8x8" in capsys.readouterr().out
