from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import ExportError, NetError
from caffe_kd.export.deploy import deploy
from caffe_kd.export.onnx import to_onnx
from caffe_kd.logs.log import Log
from caffe_kd.net import load_net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.solver.plan import read_plan
from caffe_kd.solver.solver import Solver
from tests.helpers import gradcheck, inputs_text, layer_net, make_layer, make_net, run
from tests.layers.python_nets import (
    HERE,
    body,
    user_layers_found,
    users_folder,
    without_caffe,
    write_solver,
)

pytestmark = without_caffe


@pytest.fixture(autouse=True)
def users(monkeypatch):
    yield from user_layers_found(monkeypatch)


# ---- running


def test_layers_in_a_row_multiply_forward_and_backward():
    layers = "".join(
        f'layer {{ name: "{n}" bottom: "{b}" top: "{n}" {body("TimesTen")} }}'
        for n, b in (("one", "x0"), ("two", "one"), ("three", "two"))
    )
    net = make_net(inputs_text((10, 9, 8)) + layers)
    x = torch.full((10, 9, 8), 8.0, requires_grad=True)
    net.forward({"x0": x})
    assert (net.blobs["three"] == 8000).all()
    (net.blobs["three"] * 7).sum().backward()
    assert (x.grad == 7000).all()


def test_shape_of_the_bottom_may_change():
    net = layer_net(body("TimesTen"), (10, 9, 8))
    net.forward({"x0": torch.ones(4, 4, 4, 4)})
    assert net.blobs["y0"].shape == (4, 4, 4, 4)


def test_loss_has_the_numbers_and_gradient_of_euclidean_loss():
    a, b = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    for weight in (1, 0.5):
        own = layer_net(body("EuclideanLoss", more=f"loss_weight: {weight}"), (5, 3), (5, 3))
        known = layer_net(f'type: "EuclideanLoss" loss_weight: {weight}', (5, 3), (5, 3))
        found = []
        for net in (own, known):
            objective = net.forward({"x0": a, "x1": b})
            found.append((objective, *torch.autograd.grad(objective, (a, b))))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other)


def test_loss_without_loss_weight_is_none():
    net = layer_net(body("EuclideanLoss"), (5, 3), (5, 3))
    assert net.forward() is None


def test_bottoms_that_need_no_gradient_are_reported():
    net = layer_net(body("EuclideanLoss", more="loss_weight: 1"), (5, 3), (5, 3))
    a = torch.randn(5, 3, requires_grad=True)
    net.forward({"x0": a, "x1": torch.randn(5, 3)}).backward()
    assert a.grad is not None


@pytest.mark.parametrize(
    ("cls", "shapes", "tops"),
    [
        ("EuclideanLoss", [(4, 3), (4, 3)], 1),
        ("TimesTen", [(2, 3)], 1),
        ("Scaled", [(4, 3)], 1),
        ("TwoTops", [(2, 3), (2, 3)], 2),
    ],
)
def test_gradient_and_shapes(cls, shapes, tops):
    layer = make_layer(body(cls), *shapes, tops=tops)
    values = [torch.randn(shape) for shape in shapes]
    run(layer, *values)
    gradcheck(layer, *values)


def test_data_layer_reads_its_param_str_and_goes_on():
    net = make_net(
        'layer { name: "d" top: "data" top: "label" '
        + body("Counting", '{"batch": 4, "width": 2, "limit": 6}')
        + "}"
    )
    assert net.shapes == {"data": (4, 2), "label": (4,)}
    labels = []
    for _ in range(3):
        net.forward()
        labels.append(net.blobs["label"])
    assert [x.tolist() for x in labels] == [[0, 1, 2, 0], [1, 2, 0, 1], [2, 0, 1, 2]]
    assert torch.equal(net.blobs["data"][:, 0], torch.tensor([2.0, 3, 4, 5]) / 6)


def test_phase_and_scalar_top():
    for phase in (pb.TRAIN, pb.TEST):
        net = make_net('layer { name: "p" top: "phase" ' + body("Phase") + "}", phase)
        net.forward()
        assert net.blobs["phase"].shape == ()
        assert net.blobs["phase"].item() == phase


def test_param_str_has_its_old_name_too():
    layer = make_layer(body("OldParamStr", "2.5"), (2,))
    assert layer(torch.ones(2))[0].tolist() == [2.5, 2.5]


def test_layer_in_place_changes_the_blob_and_not_what_was_there():
    net = make_net(
        inputs_text((2, 3))
        + 'layer { name: "t" type: "TanH" bottom: "x0" top: "t" }'
        + f'layer {{ name: "r" bottom: "t" top: "t" {body("InPlace")} }}'
    )
    x = torch.randn(2, 3, requires_grad=True)
    net.forward({"x0": x})
    net.blobs["t"].sum().backward()
    want = torch.autograd.grad(x.tanh().relu().sum(), x)[0]
    torch.testing.assert_close(net.blobs["t"], x.tanh().relu())
    torch.testing.assert_close(x.grad, want)  # TanH's backward needs what it gave


def test_layer_without_tops_sees_its_bottom():
    net = layer_net(body("Watching"), (2, 3), tops=0)
    x = torch.randn(2, 3)
    net.forward({"x0": x})
    assert np.array_equal(sys.modules["user_layers"].Watching.seen[-1], x.numpy())


def test_earlier_results_stay_when_the_layer_runs_again():
    layer = make_layer(body("TimesTen"), (2,))
    first = layer(torch.ones(2))[0]
    layer(torch.zeros(2))
    assert first.tolist() == [10, 10]


def test_backward_of_an_earlier_pass_sees_its_values():
    layer = make_layer(body("TwoTops"), (2,), (2,), tops=2)
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y, z = layer(x, torch.ones(2))
    layer(torch.zeros(2), torch.zeros(2))
    (y.sum() + z.sum()).backward()
    torch.testing.assert_close(x.grad, x.cos() + 2 * x)


def test_channels_last_bottom_comes_in_plain_order():
    layer = make_layer(body("TimesTen"), (2, 3, 4, 5))
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(x)[0], 10 * x)


def test_channels_last_parameter_is_read_and_written(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import caffe\n"
        "class Moving(caffe.Layer):\n"
        "    def setup(self, bottom, top):\n"
        "        self.blobs.add_blob(2, 3, 4, 5)\n"
        "    def reshape(self, bottom, top):\n"
        "        top[0].reshape(1)\n"
        "    def forward(self, bottom, top):\n"
        "        self.blobs[0].data[0, 1, 2, 3] += 1\n"
        "        top[0].data[...] = self.blobs[0].data.sum()\n"
    )
    monkeypatch.chdir(tmp_path)
    net = layer_net(body("Moving", module="mine"), (1,))
    net.to_device(torch.device("cpu"), channels_last=True)
    net.forward()
    net.forward()
    assert net.blobs["y0"].item() == 2
    assert net.nodes[-1].layer.blobs[0][0, 1, 2, 3] == 2


# ---- parameters, in a solver


def parameter_net(lr_mult="", more=""):
    return layer_net(body("Parameter", more=f"param {{ {lr_mult} }} {more}"), (2,))


def test_parameter_has_a_gradient_and_may_be_shared():
    net = parameter_net("name: 'w'")
    assert [(p.lr_mult, tuple(p.blob.shape)) for p in net.params] == [(1.0, (1,))]
    net.forward()
    net.blobs["y0"].sum().backward()
    assert net.params[0].blob.grad.tolist() == [1]


def test_gradient_that_is_set_is_not_added_up_over_passes():
    net = parameter_net()
    for _ in range(2):
        net.forward()
        net.blobs["y0"].sum().backward()
    assert net.params[0].blob.grad.tolist() == [1]


def test_gradient_that_is_added_to_adds_up_over_passes():
    net = layer_net(body("Scaled"), (4, 3))
    x = torch.randn(4, 3)
    for _ in range(3):
        net.forward({"x0": x})
        net.blobs["y0"].sum().backward()
    torch.testing.assert_close(net.params[0].blob.grad, 3 * x.sum(0))


def test_lr_mult_0_keeps_the_parameter():
    net = parameter_net("lr_mult: 0")
    net.forward()
    assert not net.blobs["y0"].requires_grad


KNOWN = 'type: "Scale"'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return users_folder(tmp_path, monkeypatch)


def solved(scaled, more=""):
    write_solver(scaled, more)
    solver = Solver(read_plan("solver.prototxt"), Log(stream=io.StringIO()))
    solver.solve()
    return solver


@pytest.mark.parametrize("more", ["", "iter_size: 3"])
def test_training_with_users_layer_equals_that_with_ours(folder, more):
    users = solved(body("Scaled"), more).net.weights()
    ours = solved(KNOWN, more).net.weights()
    for one, other in zip(users["ip"] + users["own"], ours["ip"] + ours["own"], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert np.abs(users["own"][0] - 1).max() > 1e-3  # it has learned


def test_snapshot_holds_the_blobs_and_a_run_goes_on_from_it(folder):
    solver = solved(body("Scaled"))
    net = load_net("net.prototxt")
    net.load_weights("run_iter_8.caffemodel")
    assert torch.equal(net.node_of("own").layer.blobs[0], solver.net.node_of("own").layer.blobs[0])
    resumed = Solver(read_plan("solver.prototxt"), Log(stream=io.StringIO()))
    resumed.restore("run_iter_4.solverstate")
    net.load_weights("run_iter_4.caffemodel")
    own = resumed.net.node_of("own").layer
    assert torch.equal(own.blobs[0], net.node_of("own").layer.blobs[0])
    before = own.blobs[0].detach().clone()
    resumed.step(4)
    assert not torch.equal(own.blobs[0], before)


def test_train_and_test_net_have_an_object_each(folder):
    solver = solved(body("Scaled"))
    objects = [n.node_of("own").layer.user_layer for n in (solver.net, *solver.test_nets)]
    assert [o.phase for o in objects] == [pb.TRAIN, pb.TEST]
    one, other = (n.node_of("own").layer.blobs[0] for n in (solver.net, *solver.test_nets))
    assert one is other  # its blobs are shared


def test_teacher_cache_leaves_users_layers_out(tmp_path, monkeypatch):
    from caffe_kd.data.backends.idx import write_idx
    from caffe_kd.solver.frozen import find_frozen

    draw = np.random.default_rng(0)
    write_idx(tmp_path / "images-idx3-ubyte", draw.integers(0, 256, (12, 4, 4), np.uint8))
    write_idx(tmp_path / "labels-idx1-ubyte", draw.integers(0, 3, 12).astype(np.uint8))
    frozen = "param { lr_mult: 0 } param { lr_mult: 0 } inner_product_param { num_output: 3 }"
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "d" type: "Data" top: "data" top: "label" '
        'data_param { source: "images-idx3-ubyte" backend: IDX batch_size: 4 } }'
        f'layer {{ name: "a" type: "InnerProduct" bottom: "data" top: "a" {frozen} }}'
        f'layer {{ name: "own" bottom: "a" top: "own" {body("TimesTen")} }}'
        f'layer {{ name: "b" type: "InnerProduct" bottom: "own" top: "b" {frozen} }}'
    )
    found = find_frozen(load_net(tmp_path / "net.prototxt", pb.TRAIN))
    assert [node.layer.name for node in found.nodes] == ["a"]


# ---- finding module and class


def test_module_beside_the_prototxt_is_found(tmp_path, monkeypatch):
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "mine.py").write_text(
        "import caffe\nimport helping\nclass Own(helping.Base):\n    pass\n"
    )
    (tmp_path / "nets" / "helping.py").write_text("from user_layers import TimesTen as Base\n")
    (tmp_path / "nets" / "net.prototxt").write_text(
        inputs_text((2,)) + f'layer {{ name: "L" bottom: "x0" top: "y" {body("Own", "", "mine")} }}'
    )
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    net = load_net(tmp_path / "nets" / "net.prototxt")
    net.forward({"x0": torch.ones(2)})
    assert net.blobs["y"].tolist() == [10, 10]
    assert sys.path == before


def test_missing_module_says_where_it_was_searched(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/some/where")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").touch()
    with pytest.raises(NetError) as error:
        layer_net(body("A", module="mina"), (2,))
    assert str(error.value) == (
        "net.prototxt:2: layer 'L' (Python): No module named 'mina'. Did you mean 'mine'? "
        "Searched: PYTHONPATH (/some/where), the working directory and beside the prototxt "
        f"({tmp_path})"
    )


def test_missing_class_names_the_module_and_the_nearest_class():
    with pytest.raises(NetError) as error:
        layer_net(body("TimesTem"), (2,))
    assert f"module 'user_layers' ({HERE / 'user_layers.py'}) has no class" in str(error.value)
    assert "Did you mean 'TimesTen'?" in str(error.value)


@pytest.mark.parametrize("cls", ["NotALayer", "json"])
def test_class_that_is_no_layer_is_refused(cls):
    with pytest.raises(NetError, match=f"'{cls}' of module.*does not derive from"):
        layer_net(body(cls), (2,))


@pytest.mark.parametrize("param", ["", 'python_param { module: "m" }'])
def test_module_and_layer_must_be_given(param):
    with pytest.raises(NetError, match="python_param must name module and layer"):
        layer_net(f'type: "Python" {param}', (2,))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("x = 1\ny = (\n", r"mine.py:2: SyntaxError: '\(' was never closed"),
        ("import caffe\n\nimport missing_too\n", r"mine.py:3 \(in <module>\): ModuleNotFoundError"),
        ("import caffe\ncaffe.nothing\n", r"mine.py:2 \(in <module>\): AttributeError"),
    ],
)
def test_module_that_does_not_import_names_its_line(tmp_path, monkeypatch, content, words):
    (tmp_path / "mine.py").write_text(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NetError, match="importing module 'mine' failed at .*" + words):
        layer_net(body("A", module="mine"), (2,))


# ---- errors of the user's code


def line_of(words):
    lines = (HERE / "user_layers.py").read_text().splitlines()
    return next(i for i, line in enumerate(lines, 1) if words in line)


def test_error_in_setup_names_layer_file_and_line():
    with pytest.raises(RuntimeError) as error:  # as scripts for pycaffe expect
        layer_net(body("Exploding"), (2,))
    assert isinstance(error.value, NetError)
    place = f"{HERE / 'user_layers.py'}:{line_of('raise RuntimeError')}"
    assert str(error.value) == (
        f"net.prototxt:2: layer 'L' (Python): setup of Exploding failed at {place} (in setup): "
        "RuntimeError: boom"
    )


def test_error_in_forward_names_the_users_lines_and_not_numpys():
    net = layer_net(body("Failing", "forward"), (2, 3))
    with pytest.raises(NetError) as error:
        net.forward()
    file = HERE / "user_layers.py"
    assert (
        f"forward of Failing failed at {file}:{line_of('(7, 11, 13)')} (in divide), called from "
        f"{file}:{line_of('self.divide(bottom)')} (in forward): ValueError: cannot reshape"
    ) in str(error.value)


def test_error_in_backward_names_the_users_line():
    net = layer_net(body("Failing"), (2, 3))
    net.forward({"x0": torch.ones(2, 3, requires_grad=True)})
    with pytest.raises(NetError, match=r"backward of Failing .*KeyError: 'no such gradient'"):
        net.blobs["y0"].sum().backward()


def test_users_own_class_of_errors_can_be_caught():
    net = layer_net(body("Ending"), (2,))
    with pytest.raises(sys.modules["user_layers"].EndOfData) as error:
        net.forward()
    assert isinstance(error.value, NetError)
    assert error.value.epoch == 3
    assert "epoch 3: done" in str(error.value)


def test_method_that_is_missing_is_named():
    net = layer_net(body("NoBackward"), (2,))
    net.forward({"x0": torch.ones(2, requires_grad=True)})
    with pytest.raises(NetError, match=r"class NoBackward has no method backward\(self, top"):
        net.blobs["y0"].sum().backward()


def test_top_that_gets_no_shape_is_reported():
    with pytest.raises(NetError, match=r"set the shape of top\[0\]: call top\[0\]\.reshape"):
        layer_net(body("Shapeless"), (2,))


# ---- deployment


def test_export_of_users_layer_says_that_it_cannot_be(tmp_path):
    net = layer_net(body("TimesTen"), (2, 3), phase=pb.TEST)
    with pytest.raises(ExportError, match=r"'L' \(Python\) cannot be exported: the class computes"):
        to_onnx(net, tmp_path / "m.onnx")


def test_users_data_and_loss_give_way_in_the_deployed_net(folder):
    data = body("Counting", '{"batch": 6, "width": 4}')
    net = text.parse(
        f'layer {{ name: "d" top: "data" top: "label" {data} }}'
        'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" '
        "inner_product_param { num_output: 1 } }"
        f'layer {{ name: "l" bottom: "ip" bottom: "label" top: "l" loss_weight: 1 '
        f"{body('EuclideanLoss')} }}",
        pb.NetParameter(),
    )
    deployed = deploy(net)
    assert [(x.name, x.type) for x in deployed.layer] == [
        ("data", "Input"),
        ("ip", "InnerProduct"),
    ]
    assert list(deployed.layer[0].input_param.shape[0].dim) == [1, 4]
