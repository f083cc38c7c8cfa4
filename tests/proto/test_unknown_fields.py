"""Fields that Caffe does not have: kept as they are written, and refused by what builds."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_kd.cli.main import main
from caffe_kd.core.errors import CaffeKDError, NetError, SolverError
from caffe_kd.net import Net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.compose import Teacher, compose
from caffe_kd.proto.filter import filter_net
from caffe_kd.proto.upgrade import Notes, upgrade_net, upgrade_solver
from caffe_kd.solver.plan import read_plan

START = """name: "x"
input: "data" input_shape { dim: 1 dim: 3 dim: 33 dim: 33 }
layer { name: "c" type: "Convolution" bottom: "data" top: "c"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
"""
OWN_LAYER = "in a file for -layers"

# Type of the layer, what Caffe does not know of it, and what its error says can be done.
OF_FORKS = {
    "CPMData": ("cpm_transform_param { stride: 8 }", OWN_LAYER),
    "CtcLoss": ("ctc_loss_param { blank_label: 10 time_step: 12 }", OWN_LAYER),
    "MilMax": ("mil_data_param { num_mil: 12 }", OWN_LAYER),
    "PatchTransformer": ("patch_transformer_param { rotate: true }", OWN_LAYER),
    "RegionLoss": ("region_param { num_class: 20 }", OWN_LAYER),
    "Resize": ("resize_param { height: 64 width: 64 }", "Interp"),
    "Pooling": (
        "pooling_param { kernel_size: 3 round_below: true }",
        "round_mode: FLOOR",
    ),
    "Transpose": ("transpose_param { dim: 3 dim: 2 }", "Permute"),
    "TripletLoss": ("triplet_loss_param { margin: 0.2 }", OWN_LAYER),
    "Nonesuch": ("nonesuch_param { a { b: [1, -2] c: 'd' } }", OWN_LAYER),
    "ReLU": ("relu_param { quickly_or_not_at_all: true }", OWN_LAYER),
}


def layer_of(kind: str) -> str:
    return f'layer {{ name: "p" type: "{kind}" bottom: "c" top: "p"\n  {OF_FORKS[kind][0]} }}\n'


def net_of(prototxt: str):
    return text.parse(prototxt, pb.NetParameter(), "net.prototxt")


def build_error(prototxt: str) -> str:
    with pytest.raises(NetError) as error:
        Net(upgrade_net(net_of(prototxt), "net.prototxt"), pb.TRAIN)
    return str(error.value)


@pytest.mark.parametrize("kind", OF_FORKS)
def test_field_of_a_fork_is_kept_by_all_steps_before_the_build(kind: str) -> None:
    net = upgrade_net(net_of(START + layer_of(kind)), "net.prototxt")
    net = filter_net(compose(net, []), pb.NetState(phase=pb.TRAIN))
    written = text.to_text(net)
    wanted = net_of(f"layer {{ {OF_FORKS[kind][0]} }}").layer[0]
    again = net_of(written).layer[-1]
    again.ClearField("name"), again.ClearField("type")
    again.ClearField("bottom"), again.ClearField("top")
    for layer in (wanted, again):
        text.clear_source_lines(layer)
    assert again == wanted
    assert text.to_text(net_of(written)) == written


@pytest.mark.parametrize("kind", OF_FORKS)
def test_what_builds_the_layer_names_place_layer_type_and_what_can_be_done(kind: str) -> None:
    message = build_error(START + layer_of(kind))
    assert message.startswith(("net.prototxt:5: layer 'p'", "net.prototxt:6: layer 'p'"))
    for words in (kind, "fork", OF_FORKS[kind][1]):
        assert words in message
    assert "Did you mean" not in message
    assert "\n" not in message
    assert len(message) < 500


def test_misspelt_field_is_refused_with_the_right_one_but_can_be_written() -> None:
    wrong = START.replace("num_output", "num_ouput")
    assert build_error(wrong) == (
        "net.prototxt:4: layer 'c' (Convolution): ConvolutionParameter has no field named "
        "'num_ouput'. Did you mean 'num_output'?"
    )
    assert "    num_ouput: 4\n" in text.to_text(net_of(wrong))
    assert "has no field named 'tpye'. Did you mean 'type'?" in build_error(
        START.replace("type: ", "tpye: ", 1)
    )


@pytest.mark.parametrize(
    ("prototxt", "words"),
    [
        ("force_backwrd: true", "NetParameter has no field named 'force_backwrd'. Did you mean"),
        ("state { stge: 'x' }", "NetState has no field named 'stge'. Did you mean 'stage'?"),
        ("xyzzy: 1", "NetParameter has no field named 'xyzzy'. It belongs to a fork of Caffe"),
    ],
)
def test_field_of_the_net_itself_is_refused_too(prototxt: str, words: str) -> None:
    message = build_error(f"{START}{prototxt}")
    assert message.startswith("net.prototxt:5: net 'x': ")
    assert words in message


def test_rule_that_is_known_in_part_leaves_no_layer_out() -> None:
    net = upgrade_net(net_of(START.replace("bottom", "exclude { stgae: 'x' } bottom")), "n")
    with pytest.raises(NetError, match="layer 'c' .*exclude: .*no field named 'stgae'. Did you"):
        filter_net(net, pb.NetState(phase=pb.TRAIN))


def test_field_of_a_distiller_or_teacher_net_is_refused_by_the_composed_one() -> None:
    student = upgrade_net(net_of(START), "net.prototxt")
    extra = text.parse("xyzzy: 1", pb.NetParameter(), "other.prototxt")
    for composed in (compose(student, [], extra), compose(student, [Teacher("t", extra, {})])):
        with pytest.raises(NetError, match="^other.prototxt:1: .*no field named 'xyzzy'"):
            Net(composed, pb.TRAIN)


def test_layer_that_is_left_out_needs_no_known_field() -> None:
    prototxt = START + layer_of("Nonesuch").replace("bottom", "include { phase: TEST } bottom")
    net = filter_net(upgrade_net(net_of(prototxt), "n"), pb.NetState(phase=pb.TRAIN))
    assert [node.layer.name for node in Net(net, pb.TRAIN).nodes] == ["input", "c"]


@pytest.mark.parametrize("kind", ["Nonesuch", "Pooling"])
def test_no_command_that_looks_at_a_file_ends_by_it(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    net, out = tmp_path / "net.prototxt", tmp_path / "out"
    net.write_text(START + layer_of(kind))
    assert main(["doctor", str(net)]) == 1
    report = capsys.readouterr().out
    assert f"{net}:" in report and "fork" in report
    assert "c      Convolution" in report  # what can be built is shown
    assert main(["upgrade_net_proto_text", str(net), str(out)]) == 0
    assert OF_FORKS[kind][0].split()[0] in out.read_text()
    assert main(["make_deploy", "-model", str(net), "-output", str(out)]) == 0
    assert OF_FORKS[kind][0].split()[0] in out.read_text()
    assert main(["draw_net", str(net), str(tmp_path / "net.dot")]) == 0
    capsys.readouterr()
    main(["summarize", str(net)])
    assert "Convolution" in capsys.readouterr().out


# ---- solvers

SOLVER = """net: "net.prototxt"
base_lr: 0.05 lr_policy: "fixed" max_iter: 40
"""


def solver_of(line: str):
    return text.parse(SOLVER + line, pb.SolverParameter(), "solver.prototxt")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("device_id: [0, 1, 2, 3]", "training runs on one device, the first"),
        ("device_id: []", "training runs on one device, the first"),
        ("larc_eta: 0.002", "'larc_eta' of NVIDIA's fork is left out: only LARC uses it"),
        ("test_offset: 3", "'test_offset' of Intel's fork is left out: it moves the tests"),
        ("plateau_winsize: 5000", "'plateau_winsize' of the SSD fork is left out"),
        ("test_iter:", "'test_iter' of a fork is left out: it has no value"),
        ("test_iter:\ntype: 'SGD'", "'test_iter' of a fork is left out: it has no value"),
    ],
)
def test_field_of_a_solver_that_changes_no_result_is_reported_and_left_out(
    line: str, words: str
) -> None:
    notes = Notes()
    solver = upgrade_solver(solver_of(line), "solver.prototxt", notes)
    assert not solver.foreign
    (note,) = notes.lines
    assert note.startswith("solver.prototxt:3: ") and words in note


def test_first_of_several_devices_is_trained_on() -> None:
    solver = upgrade_solver(solver_of("device_id: [2, 3]"), "solver.prototxt", Notes())
    assert solver.device_id == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("larc: true", "'larc: true' is of NVIDIA's fork and would change the results"),
        ("my_own_rate: 1", "has no field named 'my_own_rate'. It belongs to a fork of Caffe"),
        ("momentun: 0.9", "has no field named 'momentun'. Did you mean 'momentum'?"),
    ],
)
def test_other_field_of_a_solver_is_kept_and_refused_by_training(
    tmp_path: Path, line: str, words: str
) -> None:
    path = tmp_path / "solver.prototxt"
    path.write_text(SOLVER + line)
    (tmp_path / "net.prototxt").write_text(START)
    assert line in text.to_text(text.read(path, pb.SolverParameter()))
    with pytest.raises(SolverError) as error:
        read_plan(path)
    assert str(error.value).startswith(f"{path}:3: solver: ")
    assert words in str(error.value)


def test_list_for_a_field_that_takes_one_value_is_an_error_elsewhere() -> None:
    with pytest.raises(CaffeKDError, match="solver.prototxt:3: 'iter_size' takes an integer"):
        solver_of("iter_size: [1, 2]")
