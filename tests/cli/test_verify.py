"""The command that verifies a net against a recording."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from caffe_kd.cli.verify import main
from caffe_kd.net import load_net
from caffe_kd.proto.binary import write_weights

ROOT = Path(__file__).parents[2]
NET = """name: "n"
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "ip" top: "ip" }
"""


@pytest.fixture
def net(tmp_path: Path) -> list[str]:
    """Write a net and its weights; give the flags that name them."""
    (tmp_path / "n.prototxt").write_text(NET)
    built = load_net(tmp_path / "n.prototxt")
    write_weights(tmp_path / "n.caffemodel", built.param, built.weights())
    return ["-model", f"{tmp_path}/n.prototxt", "-weights", f"{tmp_path}/n.caffemodel"]


def test_what_is_recorded_agrees(
    net: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "acts.npz")
    assert main([*net, "-record", path]) == 0
    out = capsys.readouterr().out
    assert "inputs: standard normal numbers, for data" in out
    assert f"{path}: 3 blobs of 3 layers" in out
    assert main([*net, "-expected", path]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["blob", "layer", "shape", "difference", "scale", "verdict"]
    assert lines[1].startswith("ip/ip  ip (InnerProduct)  2x4    0.00e+00")
    assert lines[2].split()[:3] == ["ip", "relu", "(ReLU)"]
    assert lines[-1] == "2 of 2 recorded blobs agree"


def test_difference_exits_with_1_and_names_the_layer(
    net: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "acts.npz")
    main([*net, "-record", path])
    arrays = dict(np.load(path))
    arrays["out/ip"] = arrays["out/ip/ip"]
    np.savez(path, **arrays)
    capsys.readouterr()
    assert main([*net, "-expected", path]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].endswith("DIFFERS")
    assert lines[3] == "1 of 2 recorded blobs agree"
    assert lines[4] == f"first difference: {tmp_path}/n.prototxt:5: layer 'relu' (ReLU), blob 'ip'"
    assert lines[5] == "  its bottoms agree: it is this layer, its settings or its weights"
    assert "the recording is of the value before the layer" in lines[6]
    assert main([*net, "-expected", path, "-atol", "100"]) == 0


def test_inputs_may_come_from_another_file(
    net: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "in.npz", data=np.ones((5, 3)))
    inputs = ["-inputs", str(tmp_path / "in.npz")]
    path = str(tmp_path / "acts.npz")
    assert main([*net, *inputs, "-record", path]) == 0
    arrays = dict(np.load(path))
    assert arrays["out/ip"].shape == (5, 4)
    np.savez(tmp_path / "out.npz", ip=arrays["out/ip"])
    assert main([*net, *inputs, "-expected", str(tmp_path / "out.npz")]) == 0
    capsys.readouterr()
    assert main([*net, "-expected", str(tmp_path / "out.npz")]) == 1
    assert "no input is given: the recording has none of in/data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "Need a model definition"),
        (["-model", "n"], "Give one of -expected ACTS.npz, to compare, and -record"),
        (["-model", "n", "-expected", "a", "-record", "b"], "Give one of -expected"),
        (["-model", "n", "-expected", "a", "-rtol", "-1"], "-rtol must be at least 0"),
        (["-model", "n", "-expected", "a", "-atol", "nan"], "-atol must be at least 0"),
    ],
)
def test_wrong_usage_is_an_error(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags) == 2
    assert words in capsys.readouterr().err


def test_missing_weights_are_reported(
    net: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*net[:2], "-record", str(tmp_path / "a.npz")]) == 1
    assert "give their weights with -weights" in capsys.readouterr().err
    assert not (tmp_path / "a.npz").exists()


def test_tool_runs_from_another_folder(net: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "verify.py"), *net, "-record", "a.npz"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "a.npz").exists()
