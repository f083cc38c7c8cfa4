"""The QDQ model of a net that was trained with rounded values computes what the net does."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from caffe_kd.cli.main import main
from caffe_kd.data.backends.idx import IMAGES, read_idx
from caffe_kd.export.deploy import DeployOptions
from caffe_kd.export.pipeline import deployed_net
from caffe_kd.export.runtime import session_of
from caffe_kd.logs.log import Log
from caffe_kd.net import read_net
from caffe_kd.solver.plan import Overrides, read_plan
from caffe_kd.solver.solver import Solver

MNIST = Path(__file__).parents[3] / "shared" / "data" / "mnist"
pytestmark = pytest.mark.skipif(not MNIST.is_dir(), reason="../shared/data/mnist is absent")

DIGITS = 1000
DATA = f"""
layer {{ name: "mnist" type: "Data" top: "data" top: "label" include {{ phase: TRAIN }}
  transform_param {{ scale: 0.00390625 }}
  data_param {{ source: "{MNIST}/train-images-idx3-ubyte.gz" backend: IDX batch_size: 64 }} }}
layer {{ name: "mnist" type: "Data" top: "data" top: "label" include {{ phase: TEST }}
  transform_param {{ scale: 0.00390625 }}
  data_param {{ source: "{MNIST}/t10k-images-idx3-ubyte.gz" backend: IDX batch_size: 100 }} }}
"""
CONV = """
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 4 kernel_size: 5 weight_filler { type: "msra" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
  pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "conv2" type: "Convolution" bottom: "pool1" top: "conv2"
  convolution_param { num_output: 8 kernel_size: 5 weight_filler { type: "msra" } } }
layer { name: "relu2" type: "ReLU" bottom: "conv2" top: "conv2" }
layer { name: "pool2" type: "Pooling" bottom: "conv2" top: "pool2"
  pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "ip1" type: "InnerProduct" bottom: "pool2" top: "ip1"
  inner_product_param { num_output: 32 weight_filler { type: "msra" } } }
"""
MLP = """
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
  inner_product_param { num_output: 64 transpose: true weight_filler { type: "msra" } } }
"""
HEAD = """
layer { name: "relu3" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "drop" type: "Dropout" bottom: "ip1" top: "ip1"
  dropout_param { dropout_ratio: 0.1 } }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy"
  include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""
NETS = {"conv": (CONV, 250), "mlp": (MLP, 150)}


def train(name: str, prefix: str, iterations: int, more: str = "", start: str = "") -> str:
    """Train a net in the working directory; return the log."""
    Path("solver.prototxt").write_text(
        f'net: "{name}.prototxt" test_iter: {DIGITS // 100} test_interval: {iterations} '
        f'base_lr: 0.03 momentum: 0.9 lr_policy: "poly" power: 1 max_iter: {iterations} '
        f'snapshot_prefix: "{prefix}" random_seed: 1 {more}'
    )
    log = io.StringIO()
    plan = read_plan("solver.prototxt", Overrides(weights=[start] if start else []))
    Solver(plan, Log(stream=log, progress=False)).solve()
    return log.getvalue()


def accuracies(log: str) -> list[float]:
    return [float(a) for a in re.findall(r"Test net output #\d: accuracy = (\S+)", log)]


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the nets, trained for a few hundred iterations in float32."""
    folder = tmp_path_factory.mktemp("floats")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, (body, iterations) in NETS.items():
            Path(f"{name}.prototxt").write_text(f'name: "{name}"{DATA}{body}{HEAD}')
            train(name, name, iterations)
    return folder


@pytest.fixture(autouse=True)
def folder(floats: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(floats)
    return floats


def digits() -> np.ndarray:
    pixels = read_idx(MNIST / "t10k-images-idx3-ubyte.gz", IMAGES)[:DIGITS, None]
    return pixels.astype(np.float32) * np.float32(0.00390625)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(
    ("settings", "level"),  # and what a hidden value that falls to another level can change
    [
        ("", 0.2),
        ("bw_params: 4 bw_layer_in: 4", 1.5),
        ("bw_params: 2 bw_layer_in: 4 range: LEARNED", 1.5),
    ],
)
def test_exported_model_computes_what_the_net_does(name, settings, level):
    start = f"{name}_iter_{NETS[name][1]}.caffemodel"
    train(name, "q", 20, f"quantization {{ {settings} }}", start)
    files = ["-model", f"{name}.prototxt", "-weights", "q_iter_20.caffemodel"]
    assert main(["export_onnx", *files, "-output", "q.onnx"]) == 0
    net = deployed_net(read_net(files[1]), files[1], files[3], DeployOptions())
    images = digits()
    with torch.no_grad():
        net.forward({"data": torch.from_numpy(images)})
    wanted = net.blobs["ip2"].numpy()
    (got,) = session_of(onnx.load("q.onnx")).run(["ip2"], {"data": images})
    assert (got.argmax(1) == wanted.argmax(1)).all()
    difference = np.abs(got - wanted).max(1)
    assert (difference < 1e-4).mean() >= 0.995
    assert difference.max() <= level


def test_weights_take_a_byte_each_and_nothing_but_the_logits_is_float():
    train("conv", "q", 5, "quantization { }", "conv_iter_250.caffemodel")
    files = ["-model", "conv.prototxt", "-weights", "q_iter_5.caffemodel"]
    assert main(["export_onnx", *files, "-output", "q.onnx"]) == 0
    model = onnx.load("q.onnx")
    kinds = {t.name: onnx.TensorProto.DataType.Name(t.data_type) for t in model.graph.initializer}
    assert kinds["conv2/levels.0"] == "INT8"
    assert kinds["conv2/levels.1"] == "INT32"
    assert "conv2.0" not in kinds
    pairs = [n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear"]
    # Behind each ReLU, and behind each pooling and flattening up to the reader.
    assert pairs == ["data", "conv1", "pool1", "conv2", "pool2", "ip1/flat", "ip1/relu3"]


def test_few_bits_recover_by_training():
    log = train(
        "conv", "q", 200, "quantization { bw_params: 2 bw_layer_in: 4 }", "conv_iter_250.caffemodel"
    )
    before, after = accuracies(log)
    # Rounding alone costs hundreds of errors in a thousand; training takes back most of them.
    assert before < 0.88
    assert 1 - after < (1 - before) / 2


def test_other_writers_refuse_what_they_have_no_form_for(capsys):
    train("mlp", "q", 5, "quantization { }", "mlp_iter_150.caffemodel")
    files = ["-model", "mlp.prototxt", "-weights", "q_iter_5.caffemodel"]
    assert main(["to_torch", *files, "-output", "q.py"]) == 1
    assert "'ip1' (InnerProduct): it computes with values rounded" in capsys.readouterr().err
    scaled = (
        Path("mlp.prototxt")
        .read_text()
        .replace(
            'layer { name: "relu3"',
            'layer { name: "s" type: "Scale" bottom: "ip1" top: "ip1" }\nlayer { name: "relu3"',
        )
    )
    Path("scaled.prototxt").write_text(scaled)
    train("scaled", "s", 5, "quantization { }")
    files = ["-model", "scaled.prototxt", "-weights", "s_iter_5.caffemodel"]
    assert main(["merge_layers", *files, "-output", "merged"]) == 1
    assert "do not fit folded weights" in capsys.readouterr().err
