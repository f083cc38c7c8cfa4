from __future__ import annotations

from pathlib import Path

import pytest

from caffe_kd.core.errors import CaffeKDError, NetError, ParseError, SolverError, UsageError
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.solver.plan import Overrides, TrainingPlan, read_plan
from tests.solver.training import DISTIL, DISTILLER, SETTINGS, STUDENT


def plan_of(settings: str, **overrides) -> TrainingPlan:
    Path("solver.prototxt").write_text(settings)
    return read_plan("solver.prototxt", Overrides(**overrides))


def error_of(kind: type[CaffeKDError], settings: str, **overrides) -> str:
    with pytest.raises(kind) as error:
        plan_of(settings, **overrides)
    return str(error.value)


def types_of(net) -> list[str]:
    return [layer.type for layer in net.layer]


TEST = SETTINGS + "max_iter: 10 test_iter: 2 test_interval: 5\n"


# ---- which nets


def test_net_is_trained_and_tested_in_its_phases(folder):
    plan = plan_of(TEST)
    train = ["HDF5Data", "InnerProduct", "SoftmaxWithLoss"]
    assert types_of(plan.train.param) == train
    assert types_of(plan.tests[0].param) == [*train[:2], "Accuracy", train[2]]
    assert (plan.train.param.state.phase, plan.tests[0].param.state.phase) == (pb.TRAIN, pb.TEST)
    assert plan.train.file == plan.tests[0].file == Path("net.prototxt")


def test_every_test_iter_beyond_the_test_nets_tests_the_net(folder):
    Path("other.prototxt").write_text(STUDENT.replace("tiny", "other"))
    plan = plan_of(TEST + 'test_iter: 3 test_iter: 4 test_net: "other.prototxt"')
    assert [test.param.name for test in plan.tests] == ["other", "tiny", "tiny"]


def test_nets_may_be_written_inside_the_solver(folder):
    plan = plan_of(
        'base_lr: 0.1 lr_policy: "fixed" max_iter: 1 test_iter: 1 test_iter: 1 test_interval: 1 '
        f"train_net_param {{ {STUDENT} }} test_net_param {{ {STUDENT} }} "
        'test_net: "net.prototxt"'
    )
    assert types_of(plan.train.param) == ["HDF5Data", "InnerProduct", "SoftmaxWithLoss"]
    assert [str(test.file) for test in plan.tests] == ["solver.prototxt", "net.prototxt"]
    assert plan.train.param.layer[0].source_line.startswith("solver.prototxt:")


def test_net_param_is_trained_and_tested(folder):
    settings = TEST.replace('net: "net.prototxt"', f"net_param {{ {STUDENT} }}")
    plan = plan_of(settings)
    assert len(plan.train.param.layer) == 3
    assert len(plan.tests[0].param.layer) == 4


def test_train_net_alone_is_not_tested(folder):
    plan = plan_of('train_net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 1', level=1)
    assert plan.tests == []
    assert plan.train.param.state.level == 1


def test_states_merge_solver_over_net_and_flags_over_both(folder):
    Path("net.prototxt").write_text(
        STUDENT + 'state { level: 1 stage: "a" }'
        'layer { name: "s" type: "Silence" bottom: "ip" include { stage: "x" min_level: 3 } }'
    )
    settings = TEST + 'train_state { level: 2 stage: "b" } test_state { stage: "x" level: 3 }'
    plan = plan_of(settings)
    state = plan.train.param.state
    assert (state.level, list(state.stage), state.phase) == (2, ["a", "b"], pb.TRAIN)
    state = plan.tests[0].param.state
    assert (state.level, list(state.stage), state.phase) == (3, ["a", "x"], pb.TEST)
    assert types_of(plan.tests[0].param)[-1] == "Silence"
    plan = plan_of(settings, level=3, stages=["x"])
    state = plan.train.param.state
    assert (state.level, list(state.stage)) == (3, ["a", "b", "x"])
    assert types_of(plan.train.param)[-1] == "Silence"
    assert list(plan.tests[0].param.state.stage) == ["a", "x"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("max_iter: 1", "SolverParameter must specify a train net using one of these fields: net,"),
        (
            'net: "net.prototxt"\ntrain_net: "net.prototxt" max_iter: 1',
            "solver.prototxt:2: SolverParameter must not contain more than one of these fields",
        ),
        ('net: "net.prototxt"', "solver.prototxt: max_iter is not given"),
        (TEST + "iter_size: 0", "solver.prototxt:3: iter_size must be at least 1. Received: 0"),
        (TEST + "average_loss: 0", "average_loss must be at least 1. Received: 0"),
        (
            TEST + 'test_net: "net.prototxt" test_net: "net.prototxt"',
            "test_iter must be specified once for each test network. "
            "Received: 1 test_iter, 2 test net(s)",
        ),
        (
            'train_net: "net.prototxt" max_iter: 1\ntest_net: "net.prototxt"',
            "solver.prototxt:2: test_iter must be specified once",
        ),
        (
            TEST + "test_state { } test_state { }",
            "solver.prototxt:3: test_state must be unspecified or specified once per test net",
        ),
        (
            SETTINGS + "max_iter: 1\ntest_iter: 1",
            "solver.prototxt:3: test_iter is given, so test_interval must be at least 1",
        ),
        (
            SETTINGS + "max_iter: 1\ntest_iter: 1 test_interval: -2",
            "test_interval must be at least 1. Received: -2",
        ),
    ],
)
def test_impossible_setting_names_its_place(folder, settings, words):
    assert words in error_of(SolverError, settings)


def test_missing_files_are_named(folder):
    message = error_of(SolverError, '\nnet: "nowhere.prototxt" max_iter: 1')
    assert message.startswith("solver.prototxt:2: net 'nowhere.prototxt': no such file")
    with pytest.raises(ParseError, match=r"^lost\.prototxt: no such file"):
        read_plan("lost.prototxt")


def test_files_are_found_beside_the_solver(folder, monkeypatch):
    Path("solver.prototxt").write_text(DISTIL + 'max_iter: 1 weights: "teacher.caffemodel"')
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    plan = read_plan("../solver.prototxt")
    assert plan.train.file == Path("../net.prototxt")
    assert plan.teachers[0].path == Path("../teacher.caffemodel")
    assert plan.student_weights == [Path("../teacher.caffemodel")]
    assert plan.solver.snapshot_prefix == "../solver"


def test_solver_type_of_older_files_is_the_type(folder):
    assert plan_of(TEST + "solver_type: ADAM").solver.type == "Adam"
    words = error_of(SolverError, TEST + 'solver_type: ADAM type: "SGD"')
    assert "cannot be both specified" in words
    assert words.startswith("solver.prototxt:3")


def test_net_of_an_older_format_is_upgraded(folder):
    Path("net.prototxt").write_text(
        'layers { name: "data" type: HDF5_DATA top: "data" top: "label" '
        'hdf5_data_param { source: "rows.txt" batch_size: 4 } }'
        'layers { name: "ip" type: INNER_PRODUCT bottom: "data" top: "ip" blobs_lr: 3 '
        "inner_product_param { num_output: 3 } }"
        'layers { name: "loss" type: SOFTMAX_LOSS bottom: "ip" bottom: "label" top: "loss" }'
    )
    plan = plan_of(TEST)
    assert types_of(plan.train.param) == ["HDF5Data", "InnerProduct", "SoftmaxWithLoss"]
    assert plan.train.param.layer[1].param[0].lr_mult == 3
    assert any("V1LayerParameter" in note for note in plan.notes)


# ---- the prefix of snapshots


@pytest.mark.parametrize(
    ("prefix", "wanted"),
    [
        ("", "solver"),
        ('snapshot_prefix: "out/net"', "out/net"),
        ('snapshot_prefix: "elsewhere"', "elsewhere/solver"),
        ('snapshot_prefix: "elsewhere/"', "elsewhere/solver"),
    ],
)
def test_snapshot_prefix_without_a_name_takes_the_solvers(folder, prefix, wanted):
    (folder / "elsewhere").mkdir()
    assert plan_of(TEST + prefix).solver.snapshot_prefix == wanted


# ---- weights


def test_weights_of_the_solver_are_the_students(folder):
    for name in "abc":
        Path(f"{name}.caffemodel").touch()
    plan = plan_of(TEST + 'weights: "a.caffemodel, b.caffemodel" weights: "c.caffemodel"')
    assert [str(path) for path in plan.student_weights] == [
        "a.caffemodel",
        "b.caffemodel",
        "c.caffemodel",
    ]


def test_weights_of_the_command_line_replace_the_solvers(folder):
    plan = plan_of(TEST + 'weights: "a.caffemodel"', weights=["x.caffemodel,y.caffemodel"])
    assert [str(path) for path in plan.student_weights] == ["x.caffemodel", "y.caffemodel"]


def test_weights_go_to_a_teacher_that_names_none(folder):
    settings = DISTIL.replace('weights: "teacher.caffemodel"', "") + "max_iter: 1"
    Path("s.caffemodel").touch()
    plan = plan_of(settings + ' weights: "s.caffemodel"', weights=["teacher.caffemodel"])
    assert plan.teachers[0].path == Path("teacher.caffemodel")
    assert [str(path) for path in plan.student_weights] == ["s.caffemodel"]
    assert any("goes to the teacher 'teacher'" in note for note in plan.notes)
    plan = plan_of(settings, weights=["teacher.caffemodel,student.caffemodel"])
    assert [str(path) for path in plan.student_weights] == ["student.caffemodel"]


def test_weights_go_to_the_student_where_the_teacher_has_its_own(folder):
    plan = plan_of(DISTIL + "max_iter: 1", weights=["s.caffemodel"])
    assert plan.teachers[0].path == Path("teacher.caffemodel")
    assert plan.student_weights == [Path("s.caffemodel")]


def test_teacher_weights_win_over_the_solvers(folder):
    settings = DISTIL.replace("teacher.caffemodel", "lost.caffemodel") + "max_iter: 1"
    plan = plan_of(settings, teacher_weights="teacher.caffemodel")
    assert plan.teachers[0].path == Path("teacher.caffemodel")


def test_teacher_without_weights_is_refused(folder):
    settings = DISTIL.replace('weights: "teacher.caffemodel"', "") + "max_iter: 1"
    words = error_of(SolverError, settings)
    assert words.startswith("solver.prototxt:2: the teacher 'teacher' has no weights")


def test_missing_weights_of_the_teacher_are_named(folder):
    settings = DISTIL.replace("teacher.caffemodel", "lost.caffemodel") + "max_iter: 1"
    message = error_of(SolverError, settings)
    assert message.startswith("solver.prototxt:2: weights 'lost.caffemodel': no such file")


@pytest.mark.parametrize(
    ("settings", "overrides", "words"),
    [
        (SETTINGS, {"teacher_weights": "t.caffemodel"}, "names none"),
        (SETTINGS, {"temperature": 2.0}, "need a DistillingLoss layer"),
        (SETTINGS, {"alpha": 0.5}, "need a DistillingLoss layer"),
        (SETTINGS, {"max_iter": -1}, "-max_iter must not be negative: -1"),
    ],
)
def test_flags_that_suit_no_layer_are_a_wrong_call(folder, settings, overrides, words):
    assert words in error_of(UsageError, settings + "max_iter: 1", **overrides)


# ---- teachers


def test_teacher_is_composed_into_the_train_net_alone(folder):
    plan = plan_of(DISTIL + "max_iter: 1 test_iter: 1 test_interval: 1")
    names = [layer.name for layer in plan.train.param.layer]
    teacher = [f"teacher/{name}" for name in ("ip1", "norm", "relu", "drop", "ip")]
    assert names == ["data", *teacher, "ip", "loss", "kd"]
    assert [layer.name for layer in plan.tests[0].param.layer] == ["data", "ip", "accuracy", "loss"]
    assert [layer.name for layer in plan.student.layer] == ["data", "ip", "accuracy", "loss"]


def test_flags_override_every_distilling_loss_and_say_so(folder):
    Path("distiller.prototxt").write_text(
        DISTILLER + DISTILLER.replace('"kd"', '"kd2"').replace("TRAIN", "TEST")
    )
    settings = DISTIL + "test_iter: 1 test_interval: 1"
    plan = plan_of(settings, temperature=7.0, max_iter=3)
    kd = plan.train.param.layer[-1].distilling_loss_param
    kd2 = plan.tests[0].param.layer[-1].distilling_loss_param
    assert kd.temperature == kd2.temperature == 7
    assert plan.solver.max_iter == 3
    assert plan.notes == [
        "layer 'kd': temperature 7 from the command line instead of 4",
        "layer 'kd2': temperature 7 from the command line instead of 4",
    ]


def test_flags_reach_the_train_net_where_a_test_net_has_no_such_loss(folder):
    """The distilling loss stands in the train net's own file here."""
    Path("train.prototxt").write_text(STUDENT + DISTILLER)
    settings = DISTIL.replace('net: "net.prototxt"', 'train_net: "train.prototxt"', 1)
    settings = settings.replace('distiller_net: "distiller.prototxt"', "")
    plan = plan_of(
        settings + 'max_iter: 1 test_net: "net.prototxt" test_iter: 1 test_interval: 1',
        temperature=2.0,
    )
    assert plan.train.param.layer[-1].distilling_loss_param.temperature == 2
    assert [layer.name for layer in plan.tests[0].param.layer] == ["data", "ip", "accuracy", "loss"]


@pytest.mark.parametrize(
    ("teachers", "words"),
    [
        ('net: "teacher.prototxt" weights: "teacher.caffemodel"', "two teachers are named"),
        ('name: "b" weights: "teacher.caffemodel"', "the teacher 'b' has no net"),
        (
            'name: "b" net: "teacher.prototxt" weights: "teacher.caffemodel"',
            "no layer uses the teacher 'b': name its blobs as 'b/<blob>'",
        ),
    ],
)
def test_second_teacher_needs_name_net_and_use(folder, teachers, words):
    message = error_of(SolverError, DISTIL + f"max_iter: 1 teacher {{ {teachers} }}")
    assert words in message
    assert message.startswith("solver.prototxt:2: ")


def test_teacher_weights_of_two_teachers_are_ambiguous(folder):
    more = 'teacher { name: "b" net: "teacher.prototxt" } max_iter: 1'
    words = error_of(UsageError, DISTIL + more, teacher_weights="teacher.caffemodel")
    assert "names 2" in words


def test_two_teachers_are_composed_side_by_side(folder):
    Path("distiller.prototxt").write_text(
        DISTILLER + DISTILLER.replace('"kd"', '"kd2"').replace("teacher/", "second/")
    )
    more = 'teacher { name: "second" net: "teacher.prototxt" weights: "teacher.caffemodel" }'
    plan = plan_of(DISTIL + more + "max_iter: 1")
    assert [teacher.name for teacher in plan.teachers] == ["teacher", "second"]
    names = [layer.name for layer in plan.train.param.layer]
    assert "second/ip" in names
    assert "teacher/ip" in names


@pytest.mark.parametrize(
    ("teacher", "bottom", "words"),
    [
        (True, "teachr/ip", "'teachr'. Did you mean 'teacher/ip'? The solver's teachers: teacher"),
        (False, "teacher/ip", "'teacher'. The solver's teachers: none"),
    ],
)
def test_bottom_of_no_teacher_is_reported_with_the_teachers(folder, teacher, bottom, words):
    Path("distiller.prototxt").write_text(DISTILLER.replace("teacher/ip", bottom))
    settings = DISTIL if teacher else SETTINGS + 'distiller_net: "distiller.prototxt"'
    message = error_of(NetError, settings + " max_iter: 1")
    assert message.startswith("distiller.prototxt:2: layer 'kd' (DistillingLoss): Unknown bottom")
    assert f"blob '{bottom}' (bottom index 1)" in message
    assert message.endswith(f"no teacher is named {words}")


def test_wrong_teacher_of_inject_is_reported_and_not_that_another_is_unused(folder):
    settings = DISTIL.replace('distiller_net: "distiller.prototxt"', "")
    settings += 'max_iter: 1 inject { teacher: "tacher" layer: "ip1" }'
    assert "no teacher with a .caffemodel is named 'tacher'" in error_of(SolverError, settings)


def test_unknown_teacher_blob_is_reported_with_the_nearest(folder):
    Path("distiller.prototxt").write_text(DISTILLER.replace("teacher/ip", "teacher/ipp"))
    words = error_of(NetError, DISTIL + "max_iter: 1")
    assert words.startswith("distiller.prototxt:2: layer 'kd' (DistillingLoss): the teacher")
    assert "Did you mean 'teacher/ip'?" in words


def test_planning_needs_no_torch(folder):
    """-print_net and compose_kd answer at once."""
    import subprocess
    import sys

    Path("solver.prototxt").write_text(DISTIL + "max_iter: 1")
    code = (
        "import sys; from caffe_kd.solver.plan import read_plan; read_plan('solver.prototxt'); "
        "sys.exit('torch' in sys.modules)"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": root}, check=False)
    assert done.returncode == 0
