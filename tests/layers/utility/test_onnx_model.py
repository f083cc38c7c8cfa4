"""ONNXModel: models from elsewhere, and files that are not to be trusted."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from caffe_kd.core.errors import CaffeKDError, NetError, ParseError
from caffe_kd.data.backends.idx import write_idx
from caffe_kd.export.onnx import to_onnx
from caffe_kd.logs.log import Log
from caffe_kd.net import Net, load_net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto.binary import write_weights
from caffe_kd.proto.onnx_file import read_ports
from caffe_kd.solver.options import Options
from caffe_kd.solver.plan import read_plan
from caffe_kd.solver.solver import Solver
from tests.helpers import make_layer, make_net

# Two engines add in different orders.
TOLERANCE = 1e-5

TEACHER = """
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 4 dim: 1 dim: 6 dim: 6 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 3 kernel_size: 3 weight_filler { type: "msra" } } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def teacher() -> Net:
    torch.manual_seed(3)
    net = make_net(TEACHER)
    to_onnx(net, "teacher.onnx")
    return net


def model(
    nodes: list,
    dims: tuple = ("N", 2),
    out: tuple = ("N", 2),
    kind: int = TensorProto.FLOAT,
    **kw,
) -> None:
    """Write model.onnx: x -> y."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, dims)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        **kw,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, "model.onnx")


def twice(**kw) -> None:
    model([helper.make_node("Add", ["x", "x"], ["y"])], **kw)


def layer(param: str = 'model: "model.onnx"', shape: tuple = (3, 2)):
    return make_layer(f'type: "ONNXModel" onnx_model_param {{ {param} }}', shape)


def test_model_answers_as_the_net_it_was_made_from(folder: Path) -> None:
    net = teacher()
    x = torch.randn(7, 1, 6, 6)
    net({"data": x})
    made = make_layer(
        'type: "ONNXModel" onnx_model_param { model: "teacher.onnx" output: "prob" output: "ip" }',
        (7, 1, 6, 6),
        tops=2,
    )
    prob, ip = made(x.requires_grad_())
    assert not ip.requires_grad
    assert torch.allclose(prob, net.blobs["prob"], atol=TOLERANCE)
    assert torch.allclose(ip, net.blobs["ip"], atol=TOLERANCE)
    assert made.top_shapes([(2, 1, 6, 6)]) == [(2, 5), (2, 5)]


def test_inputs_and_outputs_go_by_name_or_by_order(folder: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Sub", ["p", "q"], ["minus"]),
            helper.make_node("Add", ["p", "q"], ["plus"]),
        ],
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N"]) for n in "pq"],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N"]) for n in ("minus", "plus")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, "model.onnx")

    def difference(bottoms: str, tops: str, more: str = "") -> float:
        net = make_net(
            'layer { name: "in" type: "Input" top: "p" top: "q" top: "r" '
            "input_param { shape { dim: 1 } shape { dim: 1 } shape { dim: 1 } } }"
            f'layer {{ name: "L" type: "ONNXModel" {bottoms} {tops} '
            f'onnx_model_param {{ model: "model.onnx" {more} }} }}'
        )
        net({name: torch.tensor([value]) for name, value in {"p": 5.0, "q": 2.0, "r": 1.0}.items()})
        return float(net.blobs[net.nodes[-1].tops[0]])

    assert difference('bottom: "p" bottom: "q"', 'top: "minus"') == 3
    assert difference('bottom: "q" bottom: "p"', 'top: "minus"') == 3
    assert difference('bottom: "q" bottom: "p"', 'top: "plus"') == 7
    assert difference('bottom: "q" bottom: "r"', 'top: "y"') == 1
    assert difference('bottom: "r" bottom: "q"', 'top: "y"', 'input: "q" input: "p"') == 1


def test_fixed_batch_is_fed_in_pieces(folder: Path) -> None:
    twice(dims=[4, 2], out=[4, 2])
    x = torch.arange(18.0).reshape(9, 2)
    assert torch.equal(layer(shape=(9, 2))(x)[0], 2 * x)


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.UINT8, TensorProto.DOUBLE])
def test_values_are_converted_to_the_models_type(folder: Path, kind: int) -> None:
    model([helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)], kind=kind)
    x = torch.tensor([[1.0, 200.0]])
    assert torch.equal(layer(shape=(1, 2))(x)[0], x)


@pytest.mark.parametrize(
    ("param", "shape", "message"),
    [
        ("", (3, 2), 'needs a model, as in model: "teacher.onnx"'),
        ('model: "model.onnx" output: "z"', (3, 2), "no output for top 'z'.* It has: y"),
        ('model: "model.onnx" input: "a" input: "b"', (3, 2), "as many as there are bottoms"),
        ('model: "model.onnx"', (3, 5), "input 'x' is any x 2. Received: bottom="),
        ('model: "model.onnx"', (3, 2, 1), "input 'x' is any x 2. Received: bottom="),
    ],
)
def test_misuse_is_reported(folder: Path, param: str, shape: tuple, message: str) -> None:
    twice()
    with pytest.raises(NetError, match=message):
        layer(param, shape)


def test_damaged_and_missing_files_are_reported(folder: Path) -> None:
    with pytest.raises(ParseError, match="no such file"):
        layer()
    for content in (b"", b"nonsense" * 9, os.urandom(999)):
        Path("model.onnx").write_bytes(content)
        with pytest.raises(ParseError, match="not an ONNX model"):
            layer()


def test_unknown_operator_is_reported(folder: Path) -> None:
    model([helper.make_node("Evil", ["x"], ["y"], domain="evil")])
    with pytest.raises(ParseError, match="ONNX Runtime cannot load it"):
        layer()


def external(location: str) -> None:
    weights = helper.make_tensor("w", TensorProto.FLOAT, [2], np.ones(2, np.float32))
    weights.ClearField("float_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location)
    model([helper.make_node("Add", ["x", "w"], ["y"])], initializer=[weights])


def test_weights_in_the_models_folder_are_read(folder: Path) -> None:
    Path("model.bin").write_bytes(np.array([3, 4], np.float32).tobytes())
    external("model.bin")
    made = layer(shape=(1, 2))
    assert made(torch.zeros(1, 2))[0].tolist() == [[3, 4]]
    before = made.digest
    Path("model.bin").write_bytes(np.array([3, 5], np.float32).tobytes())
    assert layer(shape=(1, 2)).digest != before


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "link", "", "nothing", "a\0b"])
def test_weights_outside_the_models_folder_are_refused(folder: Path, location: str) -> None:
    inner = folder / "inner"
    inner.mkdir()
    (folder / "secret").write_bytes(bytes(8))
    os.chdir(inner)
    Path("link").symlink_to("../secret")
    external(location)
    with pytest.raises(ParseError, match="which is not a file in the model's folder"):
        layer()


def test_value_that_no_memory_holds_is_refused(folder: Path) -> None:
    shape = numpy_helper.from_array(np.array([2**20, 2**20, 2], np.int64), "shape")
    model(
        [helper.make_node("Expand", ["x", "shape"], ["y"])],
        out=[2**20, 2**20, 2],
        initializer=[shape],
    )
    with pytest.raises(ParseError, match="takes more memory than this machine's"):
        layer()


def test_loop_that_may_never_end_is_refused(folder: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Identity", ["v"], ["v2"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("c2", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v2", TensorProto.FLOAT, None),
        ],
    )
    model([helper.make_node("Loop", ["", "", "x"], ["y"], body=body)])
    with pytest.raises(ParseError, match="type Loop, which may never end"):
        read_ports("model.onnx")


def test_net_with_a_model_inside_is_not_exported(folder: Path) -> None:
    twice()
    net = make_net(
        'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 } } }'
        'layer { name: "L" type: "ONNXModel" bottom: "x" top: "y" '
        'onnx_model_param { model: "model.onnx" } }'
    )
    with pytest.raises(CaffeKDError, match="a model inside a net is not exported"):
        to_onnx(net, "out.onnx")


# ---- as a teacher

STUDENT = """
layer { name: "d" type: "Data" top: "data" top: "label"
  data_param { source: "images-idx3-ubyte" backend: IDX batch_size: 4 } }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
"""
SOLVER = """net: "net.prototxt" teacher { net: "teacher.%s" %s } distiller_net: "kd.prototxt"
weights: "student.caffemodel" base_lr: 0.001 lr_policy: "fixed" max_iter: 12 random_seed: 1
average_loss: 1 display: 1
"""


@pytest.fixture
def run(folder: Path):
    draw = np.random.default_rng(0)
    write_idx(folder / "images-idx3-ubyte", draw.integers(0, 9, (10, 6, 6), np.uint8))
    write_idx(folder / "labels-idx1-ubyte", draw.integers(0, 5, 10).astype(np.uint8))
    net = teacher()
    Path("teacher.prototxt").write_text(TEACHER)
    write_weights("teacher.caffemodel", net.param, net.weights())
    Path("net.prototxt").write_text(STUDENT)
    student = load_net("net.prototxt", pb.TRAIN)
    write_weights("student.caffemodel", student.param, student.weights())
    Path("kd.prototxt").write_text(
        'layer { name: "kd" type: "DistillingLoss" bottom: "fc" bottom: "teacher/ip" top: "kd" }'
    )

    def train(kind: str, weights: str = "", mode: str = "auto") -> tuple[dict, list[str]]:
        Path("solver.prototxt").write_text(SOLVER % (kind, weights))
        lines = io.StringIO()
        solver = Solver(read_plan("solver.prototxt"), Log(stream=lines), options=Options(mode))
        solver.solve()
        return solver.net.weights(), lines.getvalue().splitlines()

    return train


@pytest.mark.parametrize("mode", ["off", "memory", "disk"])
def test_onnx_teacher_teaches_as_the_caffemodel_does(run, mode: str) -> None:
    wanted, _ = run("prototxt", 'weights: "teacher.caffemodel"', "off")
    got, logged = run("onnx", mode=mode)
    assert got.keys() == {"fc"}
    for one, other in zip(got["fc"], wanted["fc"], strict=True):
        assert np.abs(one - other).max() < TOLERANCE
    assert any("Caching the outputs of 1 frozen layers: teacher/ip" in x for x in logged) == (
        mode != "off"
    )
    assert not any("net output" in x and "teacher/" in x for x in logged)


def test_another_model_is_not_answered_from_the_old_cache(run) -> None:
    run("onnx", mode="disk")
    _, again = run("onnx", mode="disk")
    assert any("0 of 3 chunks computed" in line for line in again)
    content = onnx.load("teacher.onnx")
    for tensor in content.graph.initializer:
        if tensor.name == "ip.1":
            value = numpy_helper.to_array(tensor) + 1
            tensor.CopyFrom(numpy_helper.from_array(value, "ip.1"))
    onnx.save(content, "teacher.onnx")
    _, changed = run("onnx", mode="disk")
    assert any("3 of 3 chunks computed" in line for line in changed)


@pytest.mark.parametrize(
    ("teacher", "kd", "message"),
    [
        (
            'weights: "teacher.caffemodel"',
            "teacher/ip",
            "ONNX model, which contains its weights",
        ),
        ("", "teacher/ipp", "computes no blob 'ipp' in phase TEST. Did you mean 'teacher/ip'"),
    ],
)
def test_wrong_use_of_an_onnx_teacher_is_reported(run, teacher: str, kd: str, message: str) -> None:
    Path("kd.prototxt").write_text(Path("kd.prototxt").read_text().replace("teacher/ip", kd))
    with pytest.raises(CaffeKDError, match=message):
        run("onnx", teacher)


def test_input_of_another_name_takes_the_students_data_in_order(run) -> None:
    content = onnx.load("teacher.onnx")
    content.graph.input[0].name = "pixels"
    for node in content.graph.node:
        node.input[:] = ["pixels" if name == "data" else name for name in node.input]
    onnx.save(content, "teacher.onnx")
    # The rate comes before the data, and is none.
    Path("net.prototxt").write_text(f'layer {{ name: "r" type: "LearningRate" top: "r" }}{STUDENT}')
    _, lines = run("onnx")
    assert any("its input 'pixels' is 'data'" in line for line in lines)


def test_net_file_with_a_model_builds_from_another_folder(folder: Path) -> None:
    twice()
    Path("net.prototxt").write_text(
        'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 } } }'
        'layer { name: "L" type: "ONNXModel" bottom: "x" top: "y" '
        'onnx_model_param { model: "model.onnx" } }'
    )
    (folder / "inner").mkdir()
    os.chdir(folder / "inner")
    assert load_net("../net.prototxt", pb.TEST).shapes["y"] == (1, 2)
