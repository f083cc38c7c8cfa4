"""The command that lists a net's layers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from google.protobuf import text_format

from caffe_kd.cli.summarize import aligned, main, rows
from caffe_kd.proto import caffe_pb2 as pb

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
    rows = [line.split() for line in capsys.readouterr().out.split("\n\n")[1].splitlines()]
    assert rows[0] == ["layer", "type", "top", "parameters", "multiply-adds"]
    # 4 * 3 * 3 * 3 + 4 parameters, of which the weights work at 6 * 6 places; 144 * 10 + 10.
    assert rows[1:4] == [
        ["in", "Input", "2x3x8x8", "-", "-"],
        ["conv", "Convolution", "2x4x6x6", "112", "3,888"],
        ["ip", "InnerProduct", "2x10", "1,450", "1,440"],
    ]
    assert " ".join(rows[4]).startswith("1,562 parameters, 5.33 k multiply-adds a sample")


# Each layer, of every phase, as Caffe's summarize.py prints it.
WIRED = """
name: "wired"
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 0.1 }
  param { name: "b" lr_mult: 2 decay_mult: 0 }
  convolution_param { num_output: 4 kernel_size: 3 stride: 2 pad: 1 group: 2 } }
layer { name: "plain" type: "Convolution" bottom: "conv" top: "plain" param { lr_mult: 1 }
  convolution_param { num_output: 4 kernel_size: 1 stride: 1 pad: 0 } }
layer { name: "rect" type: "Deconvolution" bottom: "conv" top: "rect"
  convolution_param { num_output: 4 kernel_h: 3 kernel_w: 1 pad_h: 1 pad_w: 0 } }
layer { name: "pool" type: "Pooling" bottom: "plain" top: "pool" include { phase: TRAIN }
  pooling_param { kernel_size: 3 stride: 2 pad: 1 } }
layer { name: "own" type: "Python" bottom: "pool" bottom: "gone" top: "own"
  python_param { module: "mine" layer: "Own" } loss_weight: 0.5 include { phase: TRAIN } }
layer { name: "all" type: "Pooling" bottom: "plain" top: "all"
  pooling_param { global_pooling: true } }
"""
TABLE = """\
in    Input                                         -> data
conv  Convolution   (x0.1, b x2.0 Dx0.0) data       -> conv      3/2+1 4/2
plain Convolution                        conv       -> plain     1 4
rect  Deconvolution                      conv       -> rect      3x1+1x0 4
pool  Pooling                            plain      -> pool      3/2+1
own   mine.Own                           pool, gone -> 0.5 * own
all   Pooling                            plain      -> all       global
"""


def test_layers_are_printed_in_caffes_table(capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.prototxt").write_text(WIRED)
    main(["net.prototxt", "--max-width", "21"])
    assert capsys.readouterr().out.split("\n\n")[0] + "\n" == TABLE
    main(["net.prototxt", "-w", "6"])
    lines = capsys.readouterr().out.split("\n\n")[0].splitlines()
    # What is wider flows over, and what follows moves up again where there is room.
    assert lines[0] == "in    Input             -> data"
    assert lines[2] == "plain Convolution  conv -> plain 1 4"


def test_blobs_are_coloured_on_a_terminal() -> None:
    net = pb.NetParameter()
    text_format.Parse(WIRED, net)
    table = rows(net, is_coloured=True)
    conv = table[1][5]
    assert conv.endswith("mconv\033[0m") and table[2][3] == table[3][3] == conv  # one colour
    assert table[5][3].endswith(", \033[41mgone\033[0m")  # nothing makes it
    assert "\033[1;4mrect\033[0m" in table[3][5] and "\033[1;4m" not in table[2][5]
    plain = rows(net, is_coloured=False)
    assert list(aligned(plain, 99)) == [
        re.sub(r"\033\[[\d;]+m", "", line) for line in aligned(table, 99)
    ]
    assert not any("\033" in cell for row in plain for cell in row)


def test_phase_chooses_the_layers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["net.prototxt", "-phase", "TRAIN"]) == 0
    assert "\ndrop   Dropout" in capsys.readouterr().out.split("\n\n")[1]


def test_net_with_a_fault_lists_what_can_be_built(capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.prototxt").write_text(NET.replace("num_output: 10", "num_output: 0"))
    assert main(["net.prototxt"]) == 1
    captured = capsys.readouterr()
    assert "net.prototxt:7: layer 'ip' (InnerProduct): num_output must be" in captured.err
    shapes = captured.out.split("\n\n")[1]
    assert "Convolution" in shapes and "InnerProduct" not in shapes


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
    assert main(["net.prototxt"]) == 0
    captured = capsys.readouterr()
    assert "conv" in captured.out and "5x4" not in captured.out  # the first table alone
    assert "as -input_shape data=1,3,28,28" in captured.err
    assert main(["net.prototxt", "-input_shape", "3,10,10"]) == 0
    assert "5x4x8x8" in capsys.readouterr().out


def test_names_of_a_binary_net_cannot_control_the_terminal() -> None:
    net = pb.NetParameter()
    net.layer.add(name="a\x1b[2J", type="In\x1b[2Jput", top=["data\x1b[2J"])
    net.layer.add(name="b", type="ReLU", bottom=["data\x1b[2J", "gone\x9b1m"], top=["b\n"])
    net.layer[1].param.add(name="shared\x1b[2J")
    text = "\n".join(aligned(rows(net, is_coloured=True), 99))
    without_colours = re.sub(r"\033\[[\d;]+m", "", text)
    assert all(line.isprintable() for line in without_colours.splitlines())
    assert "data\\x1b[2J" in without_colours
