"""The three upgrading commands, run as users run them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from caffe_kd.cli import upgrade_net_proto_binary, upgrade_net_proto_text
from caffe_kd.cli.main import main as caffe_kd
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.binary import read_weights

TOOLS = Path(__file__).parents[2] / "tools"
OLD = """name: "n"
layers { layer { name: "d" type: "data" scale: 0.5 } top: "d" top: "label" }
layers { layer { name: "r" type: "relu" } bottom: "d" top: "d" }
"""


def run(tool: str, *arguments: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(TOOLS / f"{tool}.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_text_tool_writes_the_current_format(tmp_path):
    old, new = tmp_path / "old.prototxt", tmp_path / "new.prototxt"
    old.write_text(OLD)
    done = run("upgrade_net_proto_text", old, new, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert "using deprecated V0LayerParameter: " in done.stderr
    assert done.stderr.endswith(f"Wrote upgraded NetParameter text proto to {new}\n")
    net = text.read(new, pb.NetParameter())
    assert [layer.type for layer in net.layer] == ["Data", "ReLU"]
    assert net.layer[0].transform_param.scale == 0.5
    assert "source_line" not in new.read_text()


def test_text_tool_may_write_over_its_input_and_knows_the_current_format(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(OLD)
    assert run("upgrade_net_proto_text", path, path, cwd=tmp_path).returncode == 0
    current = path.read_text()
    again = run("upgrade_net_proto_text", path, path, cwd=tmp_path)
    assert again.returncode == 0
    assert "File already in latest proto format" in again.stderr
    assert path.read_text() == current


def test_text_tool_reports_a_field_without_successor_and_fails(tmp_path):
    old, new = tmp_path / "old.prototxt", tmp_path / "new.prototxt"
    old.write_text(OLD.replace('"relu"', '"relu" stride: 2'))
    done = run("upgrade_net_proto_text", old, new, cwd=tmp_path)
    assert done.returncode == 1
    assert f"{old}:3: layer 'r': Unknown parameter stride for layer type relu" in done.stderr
    assert "Encountered error(s) while upgrading" in done.stderr
    assert len(text.read(new, pb.NetParameter()).layer) == 2


def test_text_tool_refuses_without_traceback(tmp_path):
    old, new = tmp_path / "old.prototxt", tmp_path / "new.prototxt"
    old.write_text(OLD.replace('"relu"', '"rilu"'))
    done = run("upgrade_net_proto_text", old, new, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {old}:3: layer 'r' (rilu): Unknown layer name: 'rilu' is not a V0 "
        "layer type. Did you mean 'relu'?\n"
    )
    assert not new.exists()


def test_binary_tool_keeps_the_weights(tmp_path):
    old, new = tmp_path / "old.caffemodel", tmp_path / "new.caffemodel"
    net = pb.NetParameter(name="n")
    layer = net.layers.add(name="ip", type="INNER_PRODUCT", blobs_lr=[1, 2])
    layer.blobs.add(num=1, channels=1, height=1, width=2, data=[1, 2])
    old.write_bytes(net.SerializeToString())
    done = run("upgrade_net_proto_binary", old, new, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    (weights,) = read_weights(new)
    assert (weights.name, weights.type) == ("ip", "InnerProduct")
    assert weights.blobs[0].tolist() == [[[[1, 2]]]] and weights.legacy == [True]
    assert [p.lr_mult for p in pb.NetParameter.FromString(new.read_bytes()).layer[0].param] == [
        1,
        2,
    ]


def test_binary_tool_refuses_a_prototxt_and_names_that_are_not_utf8(tmp_path, capsys):
    path, new = tmp_path / "net.prototxt", tmp_path / "new"
    path.write_text(OLD)
    assert upgrade_net_proto_binary.main([str(path), str(new)]) == 1
    assert "is not a caffemodel but text" in capsys.readouterr().err
    path.write_bytes(b"\x12\x05\x22\x03\xff\xfe\xfd")  # a V1 layer of that name
    assert upgrade_net_proto_binary.main([str(path), str(new)]) == 1
    assert "'name' is not UTF-8. Received:" in capsys.readouterr().err
    assert not new.exists()


def test_solver_tool_writes_type(tmp_path):
    old, new = tmp_path / "old.prototxt", tmp_path / "new.prototxt"
    old.write_text('net: "n" solver_type: ADAGRAD')
    assert run("upgrade_solver_proto_text", old, new, cwd=tmp_path).returncode == 0
    assert new.read_text() == 'net: "n"\ntype: "AdaGrad"\n'
    old.write_text('net: "n"\nsolver_type: ADAGRAD\ntype: "Adam"')
    done = run("upgrade_solver_proto_text", old, new, cwd=tmp_path)
    assert done.returncode == 1
    assert f"{old}:2: Failed to upgrade solver" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["one"], ["one", "two", "three"]])
def test_wrong_number_of_files_is_a_usage_error(arguments):
    assert upgrade_net_proto_text.main(arguments) == 2


def test_commands_run_in_the_package_too(tmp_path):
    old, new = tmp_path / "old.prototxt", tmp_path / "new.prototxt"
    old.write_text(OLD)
    assert caffe_kd(["upgrade", str(old), str(new)]) == 0
    assert new.exists()
