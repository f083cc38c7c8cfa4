"""Weights of another net: no command goes on with the fillers' values without a word."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from caffe_kd.cli.main import main
from caffe_kd.cli.train import main as train
from caffe_kd.core.errors import WeightsError
from caffe_kd.data.backends.idx import write_idx
from caffe_kd.export.merge import merge
from caffe_kd.net import load_net, read_net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto.binary import read_weights, write_weights
from caffe_kd.pycaffe.glog import LOG
from caffe_kd.pycaffe.net import Net

DATA = """layer { name: "d" type: "Data" top: "data" top: "label" transform_param { scale: 0.01 }
  data_param { source: "t-images-idx3-ubyte" backend: IDX batch_size: 4 } }
"""
INPUT = """layer { name: "d" type: "Input" top: "data"
  input_param { shape { dim: 2 dim: 1 dim: 5 dim: 6 } } }
"""
NET = """layer { name: "hidden" type: "InnerProduct" bottom: "data" top: "hidden"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "last" type: "InnerProduct" bottom: "hidden" top: "last"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
"""
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "last" bottom: "label" top: "loss" }\n'
SOLVER = """net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" max_iter: 1 snapshot_prefix: "s"
random_seed: 1
"""
COMMANDS = {
    "test": ["-model", "net.prototxt", "-weights", "w.caffemodel", "-iterations", "1"],
    "extract_features": ["w.caffemodel", "net.prototxt", "last", "db", "1", "lmdb"],
    "export_onnx": ["-model", "net.prototxt", "-weights", "w.caffemodel", "-output", "o.onnx"],
    "to_torch": ["-model", "net.prototxt", "-weights", "w.caffemodel", "-output", "o.py"],
    "merge_layers": ["-model", "net.prototxt", "-weights", "w.caffemodel", "-output", "merged"],
    "verify": ["-model", "deploy.prototxt", "-weights", "w.caffemodel", "-record", "r.npz"],
    "dark_knowledge": ["-model", "net.prototxt", "-weights", "w.caffemodel"],
    "doctor": ["net.prototxt", "w.caffemodel"],
}
EVALUATING = ["test", "extract_features", "verify", "dark_knowledge", "doctor", "time"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with data, a net, and weights of another net, none of whose names it has."""
    monkeypatch.chdir(tmp_path)
    write_idx(Path("t-images-idx3-ubyte"), np.zeros((8, 5, 6), np.uint8))
    write_idx(Path("t-labels-idx1-ubyte"), np.arange(8, dtype=np.uint8) % 3)
    Path("net.prototxt").write_text(f'name: "small" {DATA}{NET}{LOSS}')
    Path("deploy.prototxt").write_text(f'name: "small" {INPUT}{NET}')
    Path("solver.prototxt").write_text(SOLVER)
    write_weights_of("other_hidden", "other_last")


def write_weights_of(hidden: str, last: str) -> None:
    """Write w.caffemodel: the net's layers under other names."""
    names = {'"hidden"': f'"{hidden}"', '"last"': f'"{last}"'}
    Path("other.prototxt").write_text(
        f'name: "other" {DATA}' + re.sub("|".join(names), lambda m: names[m[0]], NET + LOSS)
    )
    net = load_net("other.prototxt")
    write_weights(Path("w.caffemodel"), net.param, net.weights())


@pytest.mark.parametrize("command", COMMANDS)
def test_weights_of_which_nothing_fits_are_an_error(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, *COMMANDS[command]]) == 1
    printed = capsys.readouterr()
    words = printed.out + printed.err
    assert "Traceback" not in words
    for name in ("w.caffemodel", "'hidden'", "other_hidden"):
        assert name in words or (command == "merge_layers" and name == "'hidden'")
    assert "loss =" not in words
    assert not list(Path().glob("[om].*")) and not Path("db").exists()


@pytest.mark.parametrize("command", EVALUATING)
def test_layers_without_weights_are_named_where_a_net_is_evaluated(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_weights_of("hidden", "other_last")
    flags = COMMANDS.get(command, COMMANDS["test"])
    assert main([command, *flags]) == 0
    printed = capsys.readouterr()
    assert "no weights for 'last'" in printed.out + printed.err


def test_time_goes_on_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["time", *COMMANDS["test"]]) == 0
    log = capsys.readouterr().err
    assert re.search(r"^W.*no layer of net 'small' .*'other_hidden', 'other_last'", log, re.M)


def test_training_warns_and_names_both_sides(capsys: pytest.CaptureFixture[str]) -> None:
    assert train(["-solver", "solver.prototxt", "-weights", "w.caffemodel"]) == 0
    log = capsys.readouterr().err
    (line,) = [line for line in log.splitlines() if line.startswith("W")]
    assert "'other_hidden', 'other_last'" in line
    assert "'hidden', 'last'" in line
    assert "Training starts from the fillers' values" in line


def test_finetuning_logs_what_is_new_and_what_is_unused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_weights_of("hidden", "other_last")
    assert train(["-solver", "solver.prototxt", "-weights", "w.caffemodel"]) == 0
    log = capsys.readouterr().err
    assert "Ignoring source layer other_last" in log
    assert "New layers, initialized by their fillers: 'last'" in log
    assert not re.search("^W", log, re.M)


def test_training_from_whole_weights_has_no_new_layers(capsys: pytest.CaptureFixture[str]) -> None:
    write_weights_of("hidden", "last")
    assert train(["-solver", "solver.prototxt", "-weights", "w.caffemodel"]) == 0
    assert "New layers" not in capsys.readouterr().err


def test_resuming_from_weights_of_another_net_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train(["-solver", "solver.prototxt"]) == 0
    Path("s_iter_1.caffemodel").write_bytes(Path("w.caffemodel").read_bytes())
    assert train(["-solver", "solver.prototxt", "-snapshot", "s_iter_1.solverstate"]) == 1


def test_pycaffe_goes_on_as_caffe_does_but_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(LOG, "level", 0)
    monkeypatch.setattr(LOG, "_write_stream", lines.append)
    Net("net.prototxt", pb.TEST, weights="w.caffemodel")
    assert "Ignoring source layer other_hidden" in "".join(lines)
    assert any(re.match("W.*no layer of net 'small'", line) for line in lines)


def test_merge_notes_layers_of_the_file_that_the_net_lacks() -> None:
    write_weights_of("hidden", "other_last")
    merged = merge(read_net("net.prototxt"), read_weights("w.caffemodel"), "w.caffemodel")
    assert merged.notes == ["Ignoring source layer other_last"]
    with pytest.raises(WeightsError, match="no weights at all"):
        merge(read_net("net.prototxt"), [], "w.caffemodel")
