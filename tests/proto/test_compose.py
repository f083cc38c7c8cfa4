from __future__ import annotations

import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.net import Net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.compose import Teacher, compose, override_distillation
from caffe_kd.proto.filter import filter_net


def parse(prototxt: str, name: str = "net.prototxt"):
    return text.parse(prototxt, pb.NetParameter(), name)


def data(name: str = "data", rules: str = "") -> str:
    return (
        f'layer {{ name: "{name}" type: "DummyData" top: "{name}" top: "label" {rules} '
        "dummy_data_param { shape { dim: 2 dim: 3 } shape { dim: 2 } data_filler { "
        'type: "gaussian" } data_filler { type: "constant" } } }\n'
    )


def ip(name: str, bottom: str, top: str = "", more: str = "", outputs: int = 3) -> str:
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{top or name}" '
        f"{more} inner_product_param {{ num_output: {outputs} weight_filler {{ "
        'type: "gaussian" } } }\n'
    )


def relu(name: str, blob: str, more: str = "") -> str:
    return f'layer {{ name: "{name}" type: "ReLU" bottom: "{blob}" top: "{blob}" {more} }}\n'


def kd(bottom: str = "fc", teacher: str = "teacher/fc", more: str = "", name: str = "kd") -> str:
    return (
        f'layer {{ name: "{name}" type: "DistillingLoss" bottom: "{bottom}" bottom: "{teacher}" '
        f'top: "{name}" {more} }}\n'
    )


STUDENT = data() + ip("fc", "data")
TEACHER = data() + ip("fc1", "data") + relu("relu", "fc1") + ip("fc", "fc1")
# Two parameter blobs in each layer that has any.
COUNTS = {"fc1": 2, "fc": 2, "x": 2, "y": 2}


def composed(student: str = STUDENT, teacher: str = TEACHER, distiller: str = kd(), **names: str):
    """Compose with one teacher, or with those named: ``a=prototxt``."""
    nets = names or {"teacher": teacher}
    teachers = [Teacher(name, parse(net, f"{name}.prototxt"), COUNTS) for name, net in nets.items()]
    return compose(parse(student), teachers, parse(distiller, "distiller.prototxt"))


def names_of(net) -> list[str]:
    return [layer.name for layer in net.layer]


def layer_of(net, name: str):
    return next(layer for layer in net.layer if layer.name == name)


def error_of(**parts: str) -> str:
    with pytest.raises(NetError) as error:
        composed(**parts)
    return str(error.value)


# ---- names and places


def test_teacher_stands_between_the_data_and_the_student():
    net = composed()
    assert names_of(net) == ["data", "teacher/fc1", "teacher/relu", "teacher/fc", "fc", "kd"]


def test_teachers_blobs_have_its_prefix_and_the_data_have_none():
    net = composed()
    first, last = layer_of(net, "teacher/fc1"), layer_of(net, "teacher/fc")
    assert (first.bottom[0], first.top[0]) == ("data", "teacher/fc1")
    assert (last.bottom[0], last.top[0]) == ("teacher/fc1", "teacher/fc")


def test_student_and_its_own_fields_stay_as_they_are():
    student = 'name: "s" force_backward: true ' + STUDENT
    net = composed(student)
    assert (net.name, net.force_backward) == ("s", True)
    assert layer_of(net, "fc") == parse(student).layer[1]


def test_inputs_are_not_changed():
    student, teacher, distiller = parse(STUDENT), parse(TEACHER), parse(kd())
    before = [m.SerializeToString() for m in (student, teacher, distiller)]
    compose(student, [Teacher("teacher", teacher, COUNTS)], distiller)
    assert [m.SerializeToString() for m in (student, teacher, distiller)] == before


def test_student_alone_is_composed_to_itself():
    assert compose(parse(STUDENT), []) == parse(STUDENT)


def test_student_may_use_the_teacher_without_a_distiller():
    net = compose(parse(STUDENT + kd()), [Teacher("teacher", parse(TEACHER), COUNTS)])
    assert names_of(net)[-3:] == ["teacher/fc", "fc", "kd"]


# ---- what remains of the teacher


def test_only_ancestors_of_the_blobs_in_use_remain():
    teacher = TEACHER + ip("x", "fc1") + relu("after", "x")
    assert "teacher/x" not in names_of(composed(teacher=teacher))
    early = composed(teacher=teacher, distiller=kd(teacher="teacher/fc1"))
    assert names_of(early) == ["data", "teacher/fc1", "teacher/relu", "fc", "kd"]


def test_in_place_layers_of_a_blob_in_use_remain():
    net = composed(teacher=TEACHER + relu("end", "fc"))
    end = layer_of(net, "teacher/end")
    assert (end.bottom[0], end.top[0]) == ("teacher/fc", "teacher/fc")


def test_teacher_that_is_not_used_leaves_nothing():
    assert names_of(composed(distiller="")) == ["data", "fc"]


def test_teacher_is_filtered_in_test():
    teacher = (
        data("data", "include { phase: TRAIN }")
        + data("data", "include { phase: TEST }")
        + ip("fc", "data", more="include { phase: TEST }")
        + ip("fc", "data", more="include { phase: TRAIN }", outputs=9)
    )
    net = composed(teacher=teacher)
    assert names_of(net) == ["data", "teacher/fc", "fc", "kd"]
    assert layer_of(net, "teacher/fc").inner_product_param.num_output == 3


def test_teacher_may_change_its_input_in_place():
    """The student must still see the data as they are."""
    below_zero = data().replace('"gaussian"', '"constant" value: -1', 1)
    teacher = below_zero + relu("cut", "data") + ip("fc", "data")
    net = composed(student=below_zero + ip("fc", "data"), teacher=teacher)
    cut, fc = layer_of(net, "teacher/cut"), layer_of(net, "teacher/fc")
    assert (cut.bottom[0], cut.top[0]) == ("data", "teacher/data")
    assert fc.bottom[0] == "teacher/data"
    assert layer_of(net, "fc").bottom[0] == "data"
    built = Net(filter_net(net, pb.NetState(phase=pb.TRAIN)))
    built.forward()
    assert built.blobs["data"].max() == -1
    assert built.blobs["teacher/data"].min() == 0


def test_teacher_sees_the_data_before_the_student_changes_them():
    net = composed(student=data() + relu("cut", "data") + ip("fc", "data"))
    assert names_of(net)[:2] == ["data", "teacher/fc1"]
    assert names_of(net).index("cut") > names_of(net).index("teacher/fc")


def test_data_of_either_phase_come_before_the_teacher():
    student = data("data", "include { phase: TRAIN }") + data("data", "include { phase: TEST }")
    net = composed(student=student + ip("fc", "data"))
    assert names_of(net)[:3] == ["data", "data", "teacher/fc1"]


# ---- freezing


def test_teacher_is_frozen():
    teacher = data() + ip(
        "fc",
        "data",
        more="param { lr_mult: 3 decay_mult: 2 } propagate_down: true loss_weight: 5 "
        "exclude { phase: TRAIN }",
    )
    layer = layer_of(composed(teacher=teacher), "teacher/fc")
    assert layer.phase == pb.TEST
    assert [(p.lr_mult, p.decay_mult) for p in layer.param] == [(0, 0), (0, 0)]
    assert list(layer.propagate_down) == [False]
    assert list(layer.loss_weight) == [0]
    assert not layer.exclude


def test_teachers_own_loss_does_not_count():
    """Its probabilities may be used all the same."""
    teacher = (
        data()
        + ip("fc", "data")
        + 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" '
        'top: "loss" top: "prob" }'
    )
    net = composed(teacher=teacher, distiller=kd(teacher="teacher/prob"))
    assert layer_of(net, "teacher/loss").bottom[1] == "label"
    built = Net(filter_net(net, pb.NetState(phase=pb.TRAIN)))
    torch.testing.assert_close(built.forward(), built.blobs["kd"])


def test_composed_net_gives_the_teacher_no_gradient():
    built = Net(filter_net(composed(), pb.NetState(phase=pb.TRAIN)), pb.TRAIN)
    built.forward().backward()
    for param in built.params:
        assert (param.blob.grad is None) == param.layer.name.startswith("teacher/")


def test_shared_params_are_shared_within_the_teacher():
    shared = 'param { name: "w" share_mode: PERMISSIVE } param { name: "b" }'
    net = composed(
        student=data() + ip("fc", "data", more=shared),
        teacher=data() + ip("x", "data", more=shared) + ip("fc", "x", more=shared),
    )
    specs = layer_of(net, "teacher/fc").param
    assert [p.name for p in specs] == ["teacher/w", "teacher/b"]
    assert specs[0].share_mode == pb.ParamSpec.PERMISSIVE
    assert not specs[1].HasField("share_mode")
    built = Net(filter_net(net, pb.NetState(phase=pb.TRAIN)))
    one, two, own = (built.node_of(n).layer.blobs[0] for n in ("teacher/x", "teacher/fc", "fc"))
    assert one is two
    assert one is not own


def test_empty_bottom_is_none():
    teacher = data() + ip("fc", "data", more='bottom: ""')
    layer = layer_of(composed(teacher=teacher), "teacher/fc")
    assert (list(layer.bottom), list(layer.propagate_down)) == (["data"], [False])


def test_data_with_an_empty_bottom_come_before_the_teacher():
    student = data().replace('type: "DummyData"', 'type: "DummyData" bottom: ""') + ip("fc", "data")
    assert names_of(composed(student=student))[:2] == ["data", "teacher/fc1"]


# ---- include rules


def test_teacher_is_included_where_its_users_are():
    distiller = kd(more="include { phase: TRAIN }")
    net = composed(distiller=distiller)
    assert [r.phase for r in layer_of(net, "teacher/fc").include] == [pb.TRAIN]
    assert names_of(filter_net(net, pb.NetState(phase=pb.TEST))) == ["data", "fc"]


def test_rules_of_several_users_are_united():
    distiller = (
        kd(more="include { phase: TRAIN }")
        + kd(more="include { phase: TRAIN }", name="kd2")
        + kd(more='include { phase: TEST stage: "s" }', name="kd3")
    )
    rules = layer_of(composed(distiller=distiller), "teacher/fc").include
    assert [(r.phase, list(r.stage)) for r in rules] == [(pb.TRAIN, []), (pb.TEST, ["s"])]


def test_user_without_rules_keeps_the_teacher_everywhere():
    distiller = kd(more="include { phase: TRAIN }") + kd(name="kd2")
    assert not layer_of(composed(distiller=distiller), "teacher/fc").include


# ---- two teachers


def test_two_teachers_stand_side_by_side():
    distiller = kd(teacher="a/fc", more="include { phase: TRAIN }") + kd(teacher="b/x", name="kd2")
    net = composed(distiller=distiller, a=TEACHER, b=data() + ip("x", "data"))
    assert names_of(net) == ["data", "a/fc1", "a/relu", "a/fc", "b/x", "fc", "kd", "kd2"]
    assert len(layer_of(net, "a/fc").include) == 1
    assert not layer_of(net, "b/x").include


# ---- what does not fit


def test_unknown_blob_of_the_teacher_names_the_user_and_the_nearest():
    message = error_of(distiller="\n" + kd(teacher="teacher/fcc"))
    assert message == (
        "distiller.prototxt:2: layer 'kd' (DistillingLoss): the teacher 'teacher' computes no "
        "blob 'fcc' in phase TEST. Did you mean 'teacher/fc'?"
    )


def test_data_of_the_teacher_are_the_students():
    message = error_of(distiller=kd(teacher="teacher/data"))
    assert "the teacher 'teacher' computes no blob 'data'" in message


def test_input_that_the_student_lacks_is_named_with_the_nearest():
    message = error_of(teacher=data("datum") + ip("fc", "datum"))
    assert message == (
        "teacher.prototxt:1: the teacher 'teacher' takes its input 'datum' from the student, which "
        "has no blob of this name. Did you mean 'data'? Give both the same name"
    )


def test_layer_of_the_distiller_may_not_have_a_students_name():
    message = error_of(distiller=kd(name="fc"))
    assert message.startswith("distiller.prototxt:1: layer 'fc' has the name of another layer")
    assert "net.prototxt:2" in message


def test_layer_of_the_student_may_not_have_a_teachers_name():
    message = error_of(student=STUDENT + ip("teacher/fc", "data", "other"))
    assert message.startswith("net.prototxt:3: layer 'teacher/fc' has the name of another layer")
    assert "teacher.prototxt:4" in message


# ---- printing


def test_composed_net_is_read_back_as_the_same_net():
    net = composed(
        student=data() + relu("cut", "data") + ip("fc", "data", more='param { name: "w" }'),
        distiller=kd(more="include { phase: TRAIN }"),
    )
    printed = text.to_text(net)
    assert "source_line" not in printed
    again = parse(printed)
    text.clear_source_lines(again)
    text.clear_source_lines(net)
    assert again == net


def test_layers_keep_the_file_they_come_from():
    lines = [layer.source_line for layer in composed().layer]
    assert lines == [
        "net.prototxt:1",
        *[f"teacher.prototxt:{n}" for n in (2, 3, 4)],
        "net.prototxt:2",
        "distiller.prototxt:1",
    ]


# ---- overriding


def test_override_sets_every_distilling_loss_and_reports_it():
    net = parse(kd() + kd(name="kd2", more="distilling_loss_param { temperature: 2 }") + STUDENT)
    changes = override_distillation(net, temperature=8.0, alpha=0.5)
    for layer in net.layer[:2]:
        assert layer.distilling_loss_param.temperature == 8
        assert layer.distilling_loss_param.alpha == 0.5
    assert changes == [
        "layer 'kd': temperature 8 from the command line instead of 4",
        "layer 'kd': alpha 0.5 from the command line instead of 0.9",
        "layer 'kd2': temperature 8 from the command line instead of 2",
        "layer 'kd2': alpha 0.5 from the command line instead of 0.9",
    ]


def test_override_of_nothing_changes_nothing():
    net = parse(kd())
    assert override_distillation(net) == []
    assert net == parse(kd())
    assert override_distillation(parse(STUDENT), temperature=2.0) == []


def test_parameter_of_the_teacher_is_its_own():
    table = 'layer { name: "p" type: "Parameter" top: "p" parameter_param { shape { dim: 3 } } }\n'
    add = 'layer { name: "sum" type: "Bias" bottom: "fc1" bottom: "p" top: "fc" }\n'
    net = composed(teacher=data() + table + ip("fc1", "data") + add)
    assert names_of(net)[1:4] == ["teacher/p", "teacher/fc1", "teacher/sum"]
    assert net.layer[3].bottom == ["teacher/fc1", "teacher/p"]
    Net(filter_net(net, pb.NetState(phase=pb.TRAIN)), pb.TRAIN).forward()
