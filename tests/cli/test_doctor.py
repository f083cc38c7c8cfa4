"""The doctor's command: flags, exit status, output."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from caffe_kd.cli.doctor import main
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto.binary import write_weights
from tests.doctor.examining import NET, write

ROOT = Path(__file__).parents[2]
NO_DATA = NET.replace('type: "Input"', 'type: "Data" data_param { source: "none" batch_size: 4 }')
NO_DATA = NO_DATA[: NO_DATA.index("input_param")] + "}\n" + NO_DATA[NO_DATA.index("layer", 40) :]


def test_sound_net_exits_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(write(tmp_path, net=NET))]) == 0
    out = capsys.readouterr().out
    assert out.endswith("0 errors, 0 warnings, 0 notes\n")
    assert "TEST: 1,220 parameters" in out


def test_error_among_the_findings_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, net=NET.replace("num_output: 5", "num_output: 0"))
    assert main([str(path)]) == 1
    out = capsys.readouterr().out
    assert f"{path}:4: layer 'ip' (InnerProduct): num_output must be at least 1" in out
    assert "1 error, 0 warnings, 0 notes" in out


def test_json_is_the_whole_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(write(tmp_path, net="no net")), "-json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["kind"] == "unreadable"
    assert report["counts"]["error"] == 1


def test_input_shape_stands_for_the_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write(tmp_path, net=NO_DATA))
    assert main([path]) == 0
    assert "No shape can be assumed" in capsys.readouterr().out
    assert main([path, "-input_shape", "data=3,9,9"]) == 0
    assert "4x3x9x9" in capsys.readouterr().out
    assert main([path, "--input_shape=1,2,2"]) == 0
    assert "4x1x2x2" in capsys.readouterr().out


@pytest.mark.parametrize("shape", ["data=", "data=a,b", "data=3,0,1", "3x28x28"])
def test_wrong_shape_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shape: str
) -> None:
    assert main([str(write(tmp_path, net=NET)), "-input_shape", shape]) == 2
    assert "takes an input's shape, as data=1,3,28,28" in capsys.readouterr().err


def test_python_layers_are_not_run_unless_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_module.py").write_text("open('ran', 'w')\nclass P: pass\n")
    layer = """layer { name: "p" type: "Python" bottom: "ip" top: "p"
      python_param { module: "own_module" layer: "P" } }"""
    path = write(tmp_path, net=NET + layer)
    assert main([str(path)]) == 0
    assert "own_module.P is not run" in capsys.readouterr().out
    assert not Path("ran").exists()
    assert main([str(path), "-python_layers"]) == 1  # P is no layer
    assert Path("ran").exists()


def test_users_layer_types_are_known_with_layers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from caffe_kd.layers import base

    module = tmp_path / "mine.py"
    module.write_text(
        "from caffe_kd.layers import register\n"
        "from caffe_kd.layers.activation.neurons import Neuron\n"
        '@register("DoctorsOwn")\nclass DoctorsOwn(Neuron):\n    pass\n'
    )
    path = write(tmp_path, net=NET + 'layer { name: "o" type: "DoctorsOwn" bottom: "ip" top: "o" }')
    assert main([str(path)]) == 1
    try:
        assert main([str(path), "-layers", str(module)]) == 0
    finally:
        del base._REGISTRY["DoctorsOwn"]
    capsys.readouterr()


def test_missing_file_and_weights_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "none.prototxt")]) == 1
    assert "no such file" in capsys.readouterr().out
    assert main([str(write(tmp_path, net=NET)), str(tmp_path / "none.caffemodel")]) == 1
    assert "none.caffemodel" in capsys.readouterr().out


def test_names_in_weights_cannot_control_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "weights.caffemodel"
    blob = np.zeros((2, 3), np.float32)
    net = pb.NetParameter(layer=[pb.LayerParameter(name="\x1b[2Jip")])
    write_weights(weights, net, {"\x1b[2Jip": [blob]})
    assert main([str(write(tmp_path, net=NET)), str(weights)]) == 1
    printed = capsys.readouterr().out
    assert all(line.isprintable() for line in printed.splitlines())
    assert "'\\x1b[2Jip'" in printed


def test_tool_runs_from_another_folder(tmp_path: Path) -> None:
    path = write(tmp_path, net=NET)
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "doctor.py"), path.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("net.prototxt: net\n")
