"""The command that exports: files in, file out, and what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from caffe_kd.cli.export_onnx import main
from caffe_kd.data.backends.idx import write_idx
from caffe_kd.net import Net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.binary import write_weights

ROOT = Path(__file__).parents[2]

LAYERS = """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 5 stride: 2 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
"""
INPUT = """
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 1 dim: 1 dim: 12 dim: 10 } } }
"""
LOSS = """
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy"
  include { phase: TEST } }
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with digits, a train/test net that reads them, and its weights."""
    generator = np.random.default_rng(0)
    write_idx(
        tmp_path / "t10k-images-idx3-ubyte", generator.integers(0, 256, (70, 12, 10), np.uint8)
    )
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", generator.integers(0, 10, 70, np.uint8))
    data = """
    layer { name: "digits" type: "Data" top: "data" top: "label"
      transform_param { scale: 0.00390625 mean_value: 33 mirror: true }
      data_param { source: "t10k-images-idx3-ubyte" batch_size: 8 backend: IDX } }
    """
    (tmp_path / "net.prototxt").write_text('name: "student"' + data + LAYERS + LOSS)
    (tmp_path / "deploy.prototxt").write_text('name: "student"' + INPUT + LAYERS)
    torch.manual_seed(0)
    net = Net(text.read(tmp_path / "deploy.prototxt", pb.NetParameter()))
    write_weights(tmp_path / "net.caffemodel", net.param, net.weights())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_model(path, x):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["ip"], {"data": x})[0]


def wanted(folder, x):
    net = Net(text.read(folder / "deploy.prototxt", pb.NetParameter()))
    net.load_weights(folder / "net.caffemodel")
    net({"data": torch.from_numpy(x)})
    return net.blobs["ip"].detach().numpy()


@pytest.mark.parametrize("model", ["net.prototxt", "deploy.prototxt"])
def test_export_writes_a_model_with_the_outputs_of_the_net(folder, capsys, model):
    command = ["-model", model, "--weights=net.caffemodel", "--output", "out/student.onnx"]
    assert main(command) == 0
    x = np.random.default_rng(1).standard_normal((3, 1, 12, 10), dtype=np.float32)
    np.testing.assert_allclose(
        run_model("out/student.onnx", x),
        wanted(folder, x),
        rtol=1e-5,
        atol=1e-5,  # float32 sums of 60 terms
    )
    lines = capsys.readouterr().out.splitlines()
    size = Path("out/student.onnx").stat().st_size
    assert lines[0] == "input: data float [batch, 1, 12, 10]"
    assert lines[1] == "output: ip float [batch, 10]"
    assert lines[2] == f"out/student.onnx: {size:,} bytes, 4 nodes"
    assert "agree on 8 samples: greatest difference" in lines[3]


def test_export_preprocess_takes_pixels(folder, capsys):
    command = "-model net.prototxt -weights net.caffemodel -output s.onnx -preprocess".split()
    assert main([*command, "-data", "t10k-images-idx3-ubyte"]) == 0
    pixels = np.random.default_rng(1).integers(0, 256, (3, 1, 12, 10), dtype=np.uint8)
    floats = (pixels.astype(np.float32) - 33) * np.float32(0.00390625)
    np.testing.assert_allclose(run_model("s.onnx", pixels), wanted(folder, floats), atol=1e-5)
    out = capsys.readouterr().out
    assert "input: data uint8 [batch, 1, 12, 10]" in out
    assert "agree on 72 samples" in out  # 1 + 2 + 5 random ones and 64 digits
    assert "note: 'data' is not mirrored" in out


@pytest.mark.parametrize("model", ["net.prototxt", "deploy.prototxt"])
def test_export_checks_on_real_images_without_preprocess(folder, capsys, model):
    command = ["-model", model, "-weights", "net.caffemodel", "-output", "s.onnx"]
    assert main([*command, "-data", "t10k-images-idx3-ubyte"]) == 0
    assert "agree on 72 samples" in capsys.readouterr().out


def fails(capsys, *argv, status=1):
    command = {"-model": "net.prototxt", "-weights": "net.caffemodel", "-output": "s.onnx"}
    command |= dict(zip(argv[::2], argv[1::2], strict=True))
    assert main([word for pair in command.items() for word in pair if word]) == status
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and "Traceback" not in captured.err
    assert captured.out == ""
    return captured.err


def test_export_missing_files_are_named(folder, capsys):
    assert "gone.prototxt: no such file" in fails(capsys, "-model", "gone.prototxt")
    assert "gone.caffemodel: no such file" in fails(capsys, "-weights", "gone.caffemodel")
    assert "gone-idx3" in fails(capsys, "-data", "gone-idx3")
    assert not Path("s.onnx").exists()


def test_export_weights_that_lack_a_layer_are_refused(folder, capsys):
    renamed = Path("net.prototxt").read_text().replace('name: "ip"', 'name: "ip_new"')
    Path("net.prototxt").write_text(renamed)
    message = fails(capsys)
    assert "net.prototxt:" in message and "layer 'ip_new' (InnerProduct) has no weights" in message
    assert "Layers there: conv, ip" in message


def test_export_weights_of_another_shape_are_refused(folder, capsys):
    Path("net.prototxt").write_text(
        Path("net.prototxt").read_text().replace("num_output: 10", "num_output: 7")
    )
    message = fails(capsys)
    assert "shape mismatch" in message and "(10, 48)" in message and "(7, 48)" in message


def test_export_data_absent_says_what_to_do(folder, capsys):
    Path("t10k-images-idx3-ubyte").unlink()
    message = fails(capsys)
    assert "input 'data'" in message and "-input_shape data=1,C,H,W" in message
    command = "-model net.prototxt -weights net.caffemodel -output s.onnx -input_shape".split()
    assert main([*command, "data=1,1,12,10"]) == 0
    x = np.random.default_rng(1).standard_normal((3, 1, 12, 10), dtype=np.float32)
    np.testing.assert_allclose(run_model("s.onnx", x), wanted(folder, x), atol=1e-5)


def test_export_outputs_are_those_asked_for(folder, capsys):
    Path("net.prototxt").write_text(
        Path("net.prototxt").read_text()
        + 'layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }'
        + 'layer { name: "last" type: "Python" bottom: "prob" bottom: "conv" top: "boxes" '
        'python_param { module: "gone" layer: "Cluster" } }'
    )
    message = fails(capsys)
    assert "layer 'last' (Python)" in message and "-outputs prob,conv" in message
    command = "-model net.prototxt -weights net.caffemodel -output s.onnx -outputs".split()
    for names, outputs in (("prob", ["prob"]), ("prob,conv", ["conv", "prob"])):
        assert main([*command, names]) == 0
        session = ort.InferenceSession("s.onnx", providers=["CPUExecutionProvider"])
        assert [output.name for output in session.get_outputs()] == outputs
    assert main([*command, "prop"]) == 2
    assert "-outputs prop: the net has no such blob" in capsys.readouterr().err


def test_export_images_of_another_size_are_refused(folder, capsys):
    write_idx(Path("small-images-idx3-ubyte"), np.ones((3, 5, 5), np.uint8))
    message = fails(capsys, "-data", "small-images-idx3-ubyte")
    assert "(1, 5, 5)" in message and "'data' (1, 12, 10)" in message


def test_export_preprocess_of_a_deploy_net_is_refused(folder, capsys):
    message = fails(capsys, "-model", "deploy.prototxt", "-preprocess", "")
    assert "-preprocess takes mean and scale" in message


def test_export_that_fails_leaves_the_old_file(folder, capsys):
    net = Net(text.read("deploy.prototxt", pb.NetParameter()))
    weights = net.weights()
    weights["ip"][0][:] = np.nan
    write_weights("nan.caffemodel", net.param, weights)
    Path("s.onnx").write_text("old")
    assert "nowhere finite" in fails(capsys, "-weights", "nan.caffemodel")
    assert Path("s.onnx").read_text() == "old"
    assert not list(folder.glob(".*"))


def test_export_output_that_cannot_be_written_is_an_error(folder, capsys):
    assert "cannot be written" in fails(capsys, "-output", "net.prototxt/s.onnx")


@pytest.mark.parametrize("argv", [[], ["-model", "net.prototxt"], ["-mod", "x"], ["-opset", "9"]])
def test_export_usage_is_exit_status_2(argv, capsys):
    assert main(argv) == 2
    assert "usage: caffe_kd export_onnx" in capsys.readouterr().err


def test_export_help_needs_neither_torch_nor_onnx():
    code = (
        "import sys\n"
        "from caffe_kd.cli.export_onnx import main\n"
        "try: main(['-h'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def test_tool_runs_from_anywhere(tmp_path):
    tool = ROOT / "tools" / "export_onnx.py"
    done = subprocess.run(
        [sys.executable, tool, "-h"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0 and "-preprocess" in done.stdout
