from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from caffe_kd.cli import export_onnx, make_deploy, test, train
from caffe_kd.core.errors import UsageError
from caffe_kd.net import load_net
from caffe_kd.python_layers import user_code
from tests.layers.python_nets import (
    body,
    user_layers_found,
    users_folder,
    without_caffe,
    write_solver,
)

ROOT = Path(__file__).parents[2]
pytestmark = without_caffe


@pytest.fixture(autouse=True)
def users(monkeypatch):
    yield from user_layers_found(monkeypatch)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return users_folder(tmp_path, monkeypatch)


NET = """
layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ dim: 2 dim: 3 }} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "x" top: "ip"
  inner_product_param {{ num_output: 2 }} }}
layer {{ name: "own" bottom: "ip" top: "y" {own} }}
"""


def commands(folder):
    write_solver(body("Scaled"))
    Path("own.prototxt").write_text(NET.format(own=body("TimesTen")))
    Path("data.prototxt").write_text(Path("net.prototxt").read_text())
    weights = load_net("own.prototxt")
    from caffe_kd.proto.binary import write_weights

    write_weights("own.caffemodel", weights.param, weights.weights())
    return {
        "train": (train.main, ["-solver", "solver.prototxt"]),
        "test": (
            test.main,
            ["-model", "own.prototxt", "-weights", "own.caffemodel", "-iterations", "1"],
        ),
        "make_deploy": (make_deploy.main, ["-model", "data.prototxt"]),
        "export_onnx": (
            export_onnx.main,
            ["-model", "own.prototxt", "-weights", "own.caffemodel", "-output", "m.onnx"],
        ),
    }


@pytest.mark.parametrize("name", ["train", "test", "make_deploy", "export_onnx"])
def test_command_runs_no_users_code_without_the_flag(folder, capsys, name):
    main, arguments = commands(folder)[name]
    sys.modules.pop("user_layers", None)
    assert main(arguments) in (1, 2)
    error = capsys.readouterr().err
    # Exporting could not use the code anyway, and says so first.
    wanted = "its code cannot be exported" if name == "export_onnx" else "user_layers"
    assert wanted in error and ("-python_layers" in error) == (name != "export_onnx")
    assert "user_layers" not in sys.modules


@pytest.mark.parametrize("name", ["train", "test", "make_deploy"])
def test_command_runs_users_code_with_the_flag(folder, capsys, name):
    main, arguments = commands(folder)[name]
    assert main([*arguments, "-python_layers"]) == 0


def test_refusal_is_a_wrong_call_with_its_place(folder, capsys):
    main, arguments = commands(folder)["test"]
    assert main(arguments) == 2
    assert "own.prototxt:5: layer 'own' (Python): it runs code, class TimesTen of module" in (
        capsys.readouterr().err
    )


def test_leave_ends_with_the_command(folder):
    main, arguments = commands(folder)["test"]
    with user_code.forbidden():
        main([*arguments, "-python_layers"])
        with pytest.raises(UsageError, match="-python_layers"):
            load_net("own.prototxt")
    load_net("own.prototxt")  # in a program of the user's it runs


def test_tool_finds_the_module_in_the_working_directory(folder):
    """As users call it: a process of its own, without PYTHONPATH."""
    commands(folder)
    result = subprocess.run(
        [
            sys.executable,
            str(ROOT / "tools" / "train_kd.py"),
            "-solver=solver.prototxt",
            "--python_layers",
            "-no_progress",
        ],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "Optimization Done." in result.stderr


def test_error_of_users_code_is_one_line_of_the_command(folder, capsys):
    Path("own.prototxt").write_text(NET.format(own=body("Exploding")))
    status = test.main(["-model", "own.prototxt", "-weights", "x", "-python_layers"])
    assert status == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "own.prototxt:5: layer 'own' (Python): setup of Exploding failed at" in last
    assert "Traceback" not in last
