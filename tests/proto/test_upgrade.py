"""Inputs, BatchNorm and solvers of former years; notes, places and the order of the steps."""

from __future__ import annotations

import pytest

from caffe_kd.core.errors import NetError, SolverError
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.upgrade import Notes, needs_upgrade, upgrade_net, upgrade_solver


def net_of(prototxt: str, name: str = "net.prototxt"):
    return text.parse(prototxt, pb.NetParameter(), name)


def plain(message):
    text.clear_source_lines(message)
    return message


def upgraded(prototxt: str):
    return plain(upgrade_net(net_of(prototxt), "net.prototxt"))


CURRENT = 'name: "n" layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" }'


def test_current_net_is_returned_as_it_is():
    net, notes = net_of(CURRENT), Notes()
    assert not needs_upgrade(net)
    assert upgrade_net(net, "net.prototxt", notes) is net
    assert notes.lines == []


def test_upgrade_leaves_its_argument_alone_and_is_done_once():
    net = net_of('input: "x" input_dim: 1 input_dim: 2 input_dim: 3 input_dim: 4' + CURRENT)
    before = pb.NetParameter()
    before.CopyFrom(net)
    result = upgrade_net(net, "net.prototxt")
    assert net == before
    assert needs_upgrade(net) and not needs_upgrade(result)


# Inputs


def test_input_dim_becomes_an_input_layer_in_front():
    net = upgraded(
        'input: "a" input_dim: 1 input_dim: 2 input_dim: 3 input_dim: 4 '
        'input: "b" input_dim: 5 input_dim: 6 input_dim: 7 input_dim: 8 ' + CURRENT
    )
    expected = net_of(
        'name: "n" layer { name: "input" type: "Input" top: "a" top: "b" input_param {'
        "shape { dim: 1 dim: 2 dim: 3 dim: 4 } shape { dim: 5 dim: 6 dim: 7 dim: 8 } } }"
        'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" }'
    )
    assert net == plain(expected)


def test_input_shape_becomes_an_input_layer():
    net = upgraded('input: "a" input_shape { dim: 10 dim: 3 }' + CURRENT)
    assert [list(s.dim) for s in net.layer[0].input_param.shape] == [[10, 3]]
    assert not net.input_shape


def test_input_layer_names_the_line_of_the_input(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(f'name: "n"\n\ninput: "x"\ninput_shape {{ dim: 1 }}\n{CURRENT[9:]}')
    net = upgrade_net(text.read(path, pb.NetParameter()), str(path))
    assert [layer.source_line for layer in net.layer] == [f"{path}:3", f"{path}:5"]


def test_bare_input_is_dropped():
    net = upgraded('input: "x"' + CURRENT)
    assert net == plain(net_of(CURRENT))


def test_too_few_dims_are_an_error(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(f'name: "n"\ninput: "x"\ninput_dim: 1\ninput_dim: 2\n{CURRENT[9:]}')
    with pytest.raises(NetError) as caught:
        upgrade_net(text.read(path, pb.NetParameter()), str(path))
    assert str(caught.value) == (
        f"{path}:2: 1 input need 4 input_dim, four per input (N, C, H, W). Received: 2"
    )
    with pytest.raises(NetError, match="2 input need 2 input_shape, one per input. Received: 1"):
        upgraded('input: "a" input: "b" input_shape { dim: 1 }' + CURRENT)


def test_surplus_dims_are_left_out_and_reported():
    notes = Notes()
    dims = "".join(f"input_dim: {n} " for n in (1, 2, 3, 4, 5))
    net = upgrade_net(net_of(f'input: "x" {dims}' + CURRENT), "net.prototxt", notes)
    assert [list(s.dim) for s in net.layer[0].input_param.shape] == [[1, 2, 3, 4]]
    assert any("1 more are ignored" in line for line in notes.lines)
    notes = Notes()
    both = f'input: "x" input_shape {{ dim: 7 }} {dims}' + CURRENT
    net = upgrade_net(net_of(both), "net.prototxt", notes)
    assert [list(s.dim) for s in net.layer[0].input_param.shape] == [[7]]
    assert any("input_dim is ignored" in line for line in notes.lines)


# BatchNorm


@pytest.mark.parametrize("spec", ["", "lr_mult: 1", "lr_mult: 0", "lr_mult: 2 decay_mult: 3"])
def test_batch_norm_with_three_params_does_not_learn_them(spec):
    net = upgraded(f'layer {{ name: "bn" type: "BatchNorm" {f"param {{ {spec} }} " * 3} }}')
    assert [(p.lr_mult, p.decay_mult) for p in net.layer[0].param] == [(0, 0)] * 3
    assert all(p.HasField("lr_mult") and p.HasField("decay_mult") for p in net.layer[0].param)


@pytest.mark.parametrize(
    "layer",
    [
        'type: "BatchNorm" param { lr_mult: 1 } param { lr_mult: 1 }',
        'type: "Scale" param { lr_mult: 1 } param { lr_mult: 1 } param { lr_mult: 1 }',
        f'type: "BatchNorm" {"param { lr_mult: 0 decay_mult: 0 } " * 3}',
    ],
)
def test_other_params_stay(layer):
    net = net_of(f'layer {{ name: "l" {layer} }}')
    assert upgrade_net(net, "net.prototxt") is net


# Notes


def test_notes_report_the_steps_in_caffes_words():
    notes = Notes()
    upgrade_net(
        net_of(
            'input: "x" input_dim: 1 input_dim: 1 input_dim: 8 input_dim: 8 '
            'layers { layer { name: "d" type: "data" scale: 0.5 } top: "d" top: "l" } '
            'layers { layer { name: "c" type: "conv" kernelsize: 3 } bottom: "x" top: "c" }'
        ),
        "net.prototxt",
        notes,
    )
    assert notes.problems == []
    assert notes.lines == [
        "Attempting to upgrade input file specified using deprecated V0LayerParameter: "
        "net.prototxt",
        "Successfully upgraded file specified using deprecated V0LayerParameter",
        "Attempting to upgrade input file specified using deprecated V1LayerParameter: "
        "net.prototxt",
        "Successfully upgraded file specified using deprecated V1LayerParameter",
        "Attempting to upgrade input file specified using deprecated input fields: net.prototxt",
        "Successfully upgraded file specified using deprecated input fields.",
    ]


def test_notes_report_what_has_no_successor():
    notes = Notes()
    net = 'layers { layer { name: "r" type: "relu" stride: 2 } }'
    upgrade_net(net_of(net), "net.prototxt", notes)
    (problem,) = notes.problems
    assert problem == (
        "net.prototxt:1: layer 'r': Unknown parameter stride for layer type relu; it is left out"
    )
    assert f"Warning: {problem}" in notes.lines
    assert notes.lines[2].endswith("(see above); continuing anyway.")


# Solvers


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SGD", "SGD"),
        ("NESTEROV", "Nesterov"),
        ("ADAGRAD", "AdaGrad"),
        ("RMSPROP", "RMSProp"),
        ("ADADELTA", "AdaDelta"),
        ("ADAM", "Adam"),
    ],
)
def test_solver_type_becomes_type(old, new):
    solver = text.parse(f'net: "n" solver_type: {old}', pb.SolverParameter())
    notes = Notes()
    result = upgrade_solver(solver, "solver.prototxt", notes)
    assert result == pb.SolverParameter(net="n", type=new)
    assert solver.HasField("solver_type")
    assert notes.lines[0] == (
        "Attempting to upgrade input file specified using deprecated 'solver_type' field (enum): "
        "solver.prototxt"
    )


def test_current_solver_is_returned_as_it_is():
    solver = pb.SolverParameter(net="n", type="Adam")
    assert upgrade_solver(solver, "solver.prototxt") is solver


def test_solver_type_beside_type_is_an_error(tmp_path):
    path = tmp_path / "solver.prototxt"
    path.write_text('type: "Adam"\nsolver_type: SGD\n')
    with pytest.raises(SolverError) as caught:
        upgrade_solver(text.read(path, pb.SolverParameter()), str(path))
    assert str(caught.value).startswith(f"{path}:2: Failed to upgrade solver: old solver_type")


@pytest.mark.parametrize("field", ["net_param", "train_net_param", "test_net_param"])
def test_net_inside_a_solver_is_upgraded(field):
    solver = text.parse(
        f'{field} {{ name: "n" layers {{ name: "r" type: RELU }} }}', pb.SolverParameter(), "s"
    )
    result = upgrade_solver(solver, "s")
    net = getattr(result, field)
    net = net[0] if field == "test_net_param" else net
    assert (net.layer[0].type, net.layer[0].source_line) == ("ReLU", "s:1")
    assert not net.layers
