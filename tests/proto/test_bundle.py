"""Several nets in one file, and layers inside the solver."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_kd.core.errors import NetError, ParseError
from caffe_kd.proto import bundle, text
from caffe_kd.proto import caffe_pb2 as pb

ARTICLE = Path(__file__).parents[3] / "shared" / "article"

NETS = """# two nets
name: "teacher"
input: "data"
input_dim: 1
input_dim: 28
input_dim: 28
state { phase: TRAIN stage: "kept" }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" }

name: "student"
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" }
layer { name: "fc8" type: "InnerProduct" bottom: "conv1" top: "fc8" }
"""
DATA = """
layer { name: "mnist" type: "Data" top: "data" top: "label" include { phase: TRAIN } }
layer { name: "mnist" type: "Data" top: "data" top: "label" include { phase: TEST } }
"""
CONV = 'layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" }\n'
RELU = 'layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }\n'
FC = 'layer { name: "fc8" type: "InnerProduct" bottom: "conv1" top: "fc8" }\n'
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc8" bottom: "label" top: "loss" }\n'


def read(tmp_path, content):
    path = tmp_path / "network.prototxt"
    path.write_text(content)
    return bundle.read(path)


def net(content, name="student.prototxt"):
    return text.parse(content, pb.NetParameter(), name)


def layers(content):
    return text.parse(content, pb.SolverParameter(), "solver.prototxt").layer


def names(joined):
    return [layer.name for layer in joined.layer]


# ---- several nets in one file


def test_read_splits_at_each_name_and_keeps_lines(tmp_path):
    found = read(tmp_path, NETS)
    assert list(found.nets) == ["teacher", "student"]
    assert names(found.nets["teacher"]) == ["conv1"]
    assert names(found.nets["student"]) == ["conv1", "fc8"]
    assert found.nets["student"].layer[1].source_line == f"{tmp_path}/network.prototxt:12"


def test_net_of_a_file_of_one_is_that_one_whatever_its_name(tmp_path):
    found = read(tmp_path, CONV + 'name: "LeNet"')
    assert found.net("student").name == "LeNet"
    assert not found.has_teacher("teacher")
    assert names(read(tmp_path, CONV).net("student")) == ["conv1"]


def test_net_of_several_without_that_name_names_those_there(tmp_path):
    found = read(tmp_path, NETS.replace('"student"', '"studnet"'))
    with pytest.raises(ParseError, match=r"network.prototxt: none of the 2 nets .* 'student'"):
        found.net("student")
    with pytest.raises(ParseError, match=r"Did you mean 'studnet'\? .* teacher, studnet"):
        found.net("student")


def test_net_of_several_is_the_first_that_has_one_of_the_names(tmp_path):
    found = read(tmp_path, NETS + 'name: "big"\n' + CONV)
    assert found.net("big", "teacher").name == "big"
    assert found.net("other", "teacher").name == "teacher"
    assert found.has_teacher("big")
    assert found.has_teacher("other")


def test_two_nets_of_one_name_are_refused_at_the_second(tmp_path):
    with pytest.raises(ParseError, match=r"network.prototxt:10: two nets .* 'teacher', .* line 2"):
        read(tmp_path, NETS.replace('"student"', '"teacher"'))


def test_fields_before_the_first_of_several_names_are_refused(tmp_path):
    with pytest.raises(ParseError, match=r"network.prototxt:1: .* 'force_backward' comes before"):
        read(tmp_path, "force_backward: true " + NETS[NETS.index("\n") :])


def test_a_name_given_twice_inside_a_layer_is_an_error_still(tmp_path):
    with pytest.raises(ParseError, match=r"network.prototxt:1: 'name' is given twice"):
        read(tmp_path, 'layer { name: "a" name: "b" }')


def test_a_net_read_alone_may_not_have_two_names(tmp_path):
    with pytest.raises(ParseError, match="'name' is given twice, first at line 2.* several"):
        net(NETS)


def test_three_input_dims_are_channels_height_width(tmp_path):
    assert list(read(tmp_path, NETS).nets["teacher"].input_dim) == [1, 1, 28, 28]
    two = 'input: "a" input: "b" input_dim: [3, 4, 5, 6, 7, 8]'
    assert list(read(tmp_path, two).net("").input_dim) == [1, 3, 4, 5, 1, 6, 7, 8]
    four = 'input: "a" input_dim: [2, 3, 4, 5]'
    assert list(read(tmp_path, four).net("").input_dim) == [2, 3, 4, 5]


def test_phase_of_a_state_is_ignored_with_a_note_among_several_nets(tmp_path):
    found = read(tmp_path, NETS)
    assert not found.nets["teacher"].state.HasField("phase")
    assert list(found.nets["teacher"].state.stage) == ["kept"]
    (note,) = found.notes
    assert f"{tmp_path}/network.prototxt:2: warning: " in note
    assert "'teacher'" in note


def test_phase_of_a_state_stays_in_a_file_of_one_net(tmp_path):
    found = read(tmp_path, "state { phase: TEST }" + CONV)
    assert found.net("").state.phase == pb.TEST
    assert found.net("").state.HasField("phase")
    assert found.notes == []


# ---- layers inside the solver


def test_join_puts_data_layers_first_and_others_last():
    joined, notes = bundle.join(net(CONV + FC), layers(LOSS + DATA))
    assert names(joined) == ["mnist", "mnist", "conv1", "fc8", "loss"]
    assert notes == ["net '': layers of the solver are added: loss, mnist"]


def test_join_keeps_the_solvers_order_between_layers_the_student_has():
    joined, _ = bundle.join(net(CONV + FC), layers(DATA + CONV + RELU + FC + LOSS))
    assert names(joined) == ["mnist", "mnist", "conv1", "relu1", "fc8", "loss"]


def test_join_of_equal_layers_joins_once_and_says_nothing():
    student = net(DATA + CONV + FC + LOSS)
    joined, notes = bundle.join(student, layers(DATA + CONV + FC + LOSS))
    assert joined == student
    assert notes == []


def test_join_of_a_differing_layer_names_both_places_and_the_fields():
    other = "\n" + FC.replace("top:", 'propagate_down: false top: "x" top:')
    with pytest.raises(NetError) as error:
        bundle.join(net(CONV + FC), layers(other))
    assert str(error.value) == (
        "solver.prototxt:2: layer 'fc8' is written at student.prototxt:2 too, and differs there "
        "in top, propagate_down. Make both equal, or drop one"
    )


def test_join_compares_the_solvers_own_layers_too():
    with pytest.raises(NetError, match=r"solver.prototxt:2: layer 'loss' .* solver.prototxt:1 too"):
        bundle.join(net(CONV), layers(LOSS + LOSS.replace("SoftmaxWith", "Euclidean")))


def test_join_takes_one_name_with_other_include_rules_as_another_layer():
    train, test = DATA.strip().splitlines()
    joined, _ = bundle.join(net(train + CONV), layers(test))
    assert [x.include[0].phase for x in joined.layer[:2]] == [pb.TEST, pb.TRAIN]


def test_join_leaves_the_student_as_it_was():
    student = net('input: "data" input_dim: [1, 1, 2, 2]' + CONV)
    before = student.SerializeToString()
    bundle.join(student, layers(DATA))
    assert student.SerializeToString() == before


@pytest.mark.parametrize(
    ("sizes", "kept"),
    [
        ("input_dim: [1, 1, 2, 2, 7, 8, 9, 9]", pb.NetParameter(input_dim=[7, 8, 9, 9])),
        (
            "input_shape { dim: 1 } input_shape { dim: 7 }",
            pb.NetParameter(input_shape=[pb.BlobShape(dim=[7])]),
        ),
    ],
)
def test_join_drops_an_input_that_a_data_layer_makes(sizes, kept):
    student = net(f'name: "s" input: "data" input: "noise" {sizes}' + CONV)
    joined, notes = bundle.join(student, layers(DATA))
    assert list(joined.input) == ["noise"]
    assert list(joined.input_dim) == list(kept.input_dim)
    assert list(joined.input_shape) == list(kept.input_shape)
    assert notes[1] == "net 's': input 'data' is dropped: layer 'mnist' makes it"


def test_student_of_a_file_of_one_is_left_alone_where_no_layers_join(tmp_path):
    found = read(tmp_path, 'input: "data" input_dim: [1, 1, 2, 2]' + DATA)
    student, notes = found.student([])
    assert list(student.input) == ["data"]
    assert notes == []


def test_student_of_several_loses_an_input_that_its_own_data_layer_makes(tmp_path):
    student, notes = read(tmp_path, NETS + 'input: "data"' + DATA).student([])
    assert list(student.input) == []
    assert notes == ["net 'student': input 'data' is dropped: layer 'mnist' makes it"]


# ---- soft targets

KD = 'layer { name: "kd" type: "DistillingLoss" bottom: "fc8" bottom: "fc8_s" top: "kd" }\n'


def test_a_bottom_x_s_that_nothing_makes_is_the_teachers_x():
    parts, notes = bundle.name_soft_targets([net(FC), net(KD)], "big")
    assert list(parts[1].layer[0].bottom) == ["fc8", "big/fc8"]
    assert notes == ["layer 'kd': its bottom 'fc8_s' is 'big/fc8'"]


@pytest.mark.parametrize(
    "maker",
    [
        'layer { name: "x" type: "InnerProduct" bottom: "data" top: "fc8_s" }',
        'layer { name: "x" type: "Input" top: "fc8_s" include { phase: TEST } }',
    ],
)
def test_a_bottom_x_s_that_a_layer_makes_is_that_blob(maker):
    parts, notes = bundle.name_soft_targets([net(FC + maker), net(KD)], "teacher")
    assert list(parts[1].layer[0].bottom) == ["fc8", "fc8_s"]
    assert notes == []


# ---- the article's own files


@pytest.mark.skipif(not ARTICLE.is_dir(), reason="../shared/article is not here")
@pytest.mark.parametrize(("name", "line"), [("network", 32), ("solver", 73)])
def test_the_articles_files_are_read_up_to_what_they_leave_out(name, line):
    path = ARTICLE / f"{name}.prototxt"
    with pytest.raises(ParseError, match=rf"{name}.prototxt:{line}: '...' replaces layers"):
        if name == "network":
            bundle.read(path)
        else:
            text.read(path, pb.SolverParameter())


@pytest.mark.skipif(not ARTICLE.is_dir(), reason="../shared/article is not here")
def test_the_articles_files_make_one_net_but_for_what_they_leave_out(tmp_path):
    for name in ("network", "solver"):
        content = (ARTICLE / f"{name}.prototxt").read_text()
        (tmp_path / f"{name}.prototxt").write_text(content.replace("...", ""))
    solver = text.read(tmp_path / "solver.prototxt", pb.SolverParameter())
    found = bundle.read(tmp_path / solver.net)
    assert names(found.net("teacher")) == ["conv1", "softmax"]
    joined, _ = found.student(solver.layer)
    own = ["conv1", "prob", "accuracy", "loss", "kd_loss", "lr"]
    assert names(joined) == ["mnist", "mnist", *own]
    (joined,), _ = bundle.name_soft_targets([joined], "teacher")
    assert list(joined.layer[6].bottom) == ["fc8", "teacher/fc8"]
