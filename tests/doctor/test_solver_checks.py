"""Each check of a solver: a file that it speaks of, and one that it is silent on."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from caffe_kd.data.backends.idx import write_idx
from caffe_kd.net import load_net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto.binary import write_weights
from tests.doctor.examining import FREEZE, IP, LOSS, NET, SOLVER, found, report_of, write

TESTS = "test_iter: 2 test_interval: 10\n"
OTHER_POLICY = SOLVER.replace('lr_policy: "fixed"', "lr_policy: POLICY")


def policy(words: str) -> str:
    return OTHER_POLICY.replace("POLICY", words)


def changed(before: str, after: str) -> str:
    assert before in SOLVER
    return SOLVER.replace(before, after)


# Check, severity, words of the finding, a solver with it and one without.
CASES = [
    (
        "cannot_be_planned",
        "error",
        "net 'none.prototxt': no such file",
        changed("net.prototxt", "none.prototxt"),
        SOLVER,
    ),
    ("cannot_be_planned", "error", "max_iter is not given", changed("max_iter: 100", ""), SOLVER),
    (
        "policy_settings",
        "error",
        "needs a stepsize of at least 1",
        policy('"step" gamma: 0.1 stepsize: 0'),
        policy('"step" gamma: 0.1 stepsize: 30'),
    ),
    ("policy_settings", "error", "Unknown learning rate policy: 'stpe'", policy('"stpe"'), SOLVER),
    (
        "policy_settings",
        "warning",
        "uses gamma, which is not given",
        policy('"exp"'),
        policy('"exp" gamma: 0.99'),
    ),
    (
        "policy_settings",
        "error",
        "uses base_lr, which is not given",
        changed("base_lr: 0.01", ""),
        SOLVER,
    ),
    (
        "rate_over_time",
        "warning",
        "practically 0 by iteration",
        policy('"step" gamma: 0 stepsize: 30'),
        policy('"step" gamma: 0.1 stepsize: 30'),
    ),
    (
        "rate_over_time",
        "warning",
        "the rate grows from 0.01",
        policy('"exp" gamma: 1.1'),
        policy('"exp" gamma: 0.99'),
    ),
    (
        "rate_over_time",
        "warning",
        "the rate reaches 2",
        changed("base_lr: 0.01", "base_lr: 2"),
        SOLVER,
    ),
    (
        "step_values",
        "warning",
        "stepvalue is not ascending",
        policy('"multistep" gamma: 0.1 stepvalue: 60 stepvalue: 30'),
        policy('"multistep" gamma: 0.1 stepvalue: 30 stepvalue: 60'),
    ),
    (
        "step_values",
        "note",
        "stepvalue 100 is not below max_iter 100",
        policy('"multistep" gamma: 0.1 stepvalue: 100'),
        policy('"multistep" gamma: 0.1 stepvalue: 99'),
    ),
    (
        "step_values",
        "note",
        "stepsize 100 is not below max_iter 100",
        policy('"step" gamma: 0.1 stepsize: 100'),
        policy('"step" gamma: 0.1 stepsize: 99'),
    ),
    (
        "best_while_pruning",
        "warning",
        "snapshot_best compares nets of different sparsity, on the way to 0.9",
        SOLVER + 'snapshot_best: "loss" pruning { sparsity: 0.9 }',
        SOLVER + 'snapshot_best: "loss" pruning { sparsity: 0.9 policy: ONE_SHOT }',
    ),
    (
        "best_before_rounding",
        "warning",
        "snapshot_best compares nets from before and after iteration 20, where rounding begins",
        SOLVER + 'snapshot_best: "loss" quantization { start_iter: 20 }',
        SOLVER + 'snapshot_best: "loss" quantization { }',
    ),
    (
        "rule_settings",
        "error",
        "Momentum cannot be used with AdaGrad",
        changed('"SGD"', '"AdaGrad"'),
        changed('"SGD"', '"AdaGrad"').replace("momentum: 0.9", ""),
    ),
    (
        "rule_settings",
        "error",
        "Momentum cannot be used with RMSProp",
        changed('"SGD"', '"RMSProp"'),
        SOLVER,
    ),
    (
        "rule_settings",
        "error",
        "Unknown solver type: 'SDG'. type is one of",
        changed('"SGD"', '"SDG"'),
        SOLVER,
    ),
    (
        "rule_settings",
        "error",
        "Unknown regularization type: 'L3'",
        SOLVER + 'regularization_type: "L3"',
        SOLVER + 'regularization_type: "L1"',
    ),
    (
        "momentum",
        "error",
        "momentum is 1: past updates never decay",
        changed("momentum: 0.9", "momentum: 1"),
        SOLVER,
    ),
    ("momentum", "note", "SGD without momentum", changed("momentum: 0.9", ""), SOLVER),
    (
        "momentum",
        "warning",
        "AdaDelta without momentum",
        changed("momentum: 0.9", "").replace("SGD", "AdaDelta"),
        SOLVER,
    ),
    (
        "weight_decay",
        "warning",
        "weight_decay is 0.5",
        SOLVER + "weight_decay: 0.5",
        SOLVER + "weight_decay: 0.0005",
    ),
    (
        "weight_decay",
        "note",
        "weight_decay 0.0005 with Adam",
        changed('"SGD"', '"Adam"') + "weight_decay: 0.0005",
        changed('"SGD"', '"Adam"'),
    ),
    (
        "decay_on_bias",
        "note",
        "weight_decay 0.0005 pulls on the bias of ip",
        SOLVER + "weight_decay: 0.0005",
        SOLVER,
    ),
    (
        "clipping_sums",
        "warning",
        "clip_gradients 5 with iter_size 2",
        SOLVER + "clip_gradients: 5 iter_size: 2",
        SOLVER + "clip_gradients: 5",
    ),
    ("several_passes", "note", "iter_size is 2", SOLVER + "iter_size: 2", SOLVER),
    ("no_test", "note", "the solver has no test net", SOLVER, SOLVER + TESTS),
    (
        "no_test",
        "note",
        "test_interval 1000 is above max_iter 100",
        SOLVER + "test_iter: 2 test_interval: 1000",
        SOLVER + TESTS,
    ),
    (
        "snapshots",
        "warning",
        "no snapshot is ever written",
        changed("snapshot: 50", "snapshot_after_train: false"),
        SOLVER,
    ),
    (
        "snapshots",
        "note",
        "the only snapshot is the one at the end",
        changed("snapshot: 50", ""),
        SOLVER,
    ),
    (
        "snapshots",
        "note",
        "the folder of snapshot_prefix, 'away', does not exist",
        changed('"s"', '"away/s"'),
        SOLVER,
    ),
    ("no_seed", "note", "random_seed is not given", changed("random_seed: 1", ""), SOLVER),
    (
        "solver_type",
        "note",
        "solver_type is the older form",
        changed('type: "SGD"', "solver_type: ADAM"),
        SOLVER,
    ),
    ("debug_info", "note", "debug_info is on", SOLVER + "debug_info: true", SOLVER),
]


@pytest.mark.parametrize(("check", "severity", "words", "bad", "good"), CASES)
def test_check_speaks_of_one_solver_and_is_silent_on_another(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    check: str,
    severity: str,
    words: str,
    bad: str,
    good: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    occurrences = found(write(tmp_path, bad=bad, net=NET), check)
    assert any(s == severity and words in what for s, what in occurrences), occurrences
    assert found(write(tmp_path, good=good, net=NET), check) == []


SLOW = re.sub(r"base_lr: [\d.]+", "base_lr: 0.0001", SOLVER)
RAW = """layer { name: "d" type: "Data" top: "data" top: "label" transform_param { crop_size: 8 }
  data_param { source: "db" batch_size: 4 backend: LMDB } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 5 kernel_size: 3 weight_filler { FILLER } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
BEHIND
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "l" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "l" }
"""


@pytest.mark.parametrize(
    ("filler", "behind", "solver", "severity"),
    [
        ('type: "xavier"', "", SOLVER, "warning"),
        ('type: "msra"', "", SOLVER, "warning"),
        ('type: "gaussian" std: 0.01', "", SOLVER, "note"),
        ('type: "xavier"', "", SLOW, "note"),
        (
            'type: "xavier"',
            'layer { name: "n" type: "LRN" bottom: "conv" top: "n" }',
            SOLVER,
            "note",
        ),
    ],
)
def test_raw_pixels_are_warned_of_where_rate_and_fillers_are_for_small_values(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    filler: str,
    behind: str,
    solver: str,
    severity: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    net = RAW.replace("FILLER", filler).replace("BEHIND", behind)
    occurrences = found(write(tmp_path, bad=solver, net=net), "raw_pixels")
    assert [s for s, _ in occurrences] == [severity], occurrences


def test_nets_that_learn_nothing_are_errors_of_a_solver(tmp_path: Path) -> None:
    frozen = NET.replace(
        "inner_product_param", "param { lr_mult: 0 } param { lr_mult: 0 } inner_product_param"
    )
    path = write(tmp_path, solver=SOLVER, net=frozen)
    assert found(path, "nothing_learns") == [("error", "net 'n': every lr_mult is 0")]
    assert [s for s, _ in found(path, "frozen_at_random")] == ["warning"]
    without_loss = NET[: NET.index('layer { name: "loss"')]
    path = write(tmp_path, solver=SOLVER, net=without_loss)
    assert found(path, "nothing_to_minimise") == [("error", "net 'n' has no loss in TRAIN")]
    path = write(tmp_path, solver=SOLVER, net=NET)
    assert found(path, "nothing_to_minimise") == found(path, "nothing_learns") == []


def with_samples(folder: Path, count: int) -> str:
    """Write an IDX file of samples and return a net that trains and is tested on it."""
    write_idx(folder / "x-images-idx3-ubyte", np.zeros((count, 9, 9), np.uint8))
    write_idx(folder / "x-labels-idx1-ubyte", np.zeros(count, np.uint8))
    data = f"""layer {{ name: "d" type: "Data" top: "data" top: "label" data_param {{
      source: "{folder.as_posix()}/x-images-idx3-ubyte" batch_size: 4 backend: IDX }} }}"""
    return data + IP + LOSS


@pytest.mark.parametrize(
    ("samples", "wanted"),
    [
        (10, [("warning", "test_iter 2 * batch_size 4 = 8 of the 10 samples of layer 'd'")]),
        (8, []),
        (7, [("note", "test_iter 2 * batch_size 4 = 8 of the 7 samples of layer 'd'")]),
    ],
)
def test_number_of_tests_is_compared_with_the_samples(
    tmp_path: Path, samples: int, wanted: object
) -> None:
    path = write(tmp_path, solver=SOLVER + TESTS, net=with_samples(tmp_path, samples))
    assert found(path, "test_coverage") == wanted


def test_training_shorter_than_a_pass(tmp_path: Path) -> None:
    net = with_samples(tmp_path, 13)
    short = SOLVER.replace("max_iter: 100", "max_iter: 3")
    occurrence = ("note", "12 of the 13 samples of layer 'd' are used")
    assert found(write(tmp_path, solver=short, net=net), "less_than_a_pass") == [occurrence]
    assert found(write(tmp_path, solver=SOLVER, net=net), "less_than_a_pass") == []


def test_same_net_moved_beside_the_solver_is_examined_and_named(tmp_path: Path) -> None:
    path = write(tmp_path, solver=SOLVER.replace("net.prototxt", "gone/net.prototxt"), net=NET)
    ((severity, what),) = found(path, "cannot_be_planned")
    assert severity == "error"
    assert "One of that name is: write 'net.prototxt'" in what
    assert report_of(path).costs["TRAIN"].parameters == 5 * 243 + 5


# ---- a teacher

KD = """net: "net.prototxt" teacher { net: "teacher.prototxt" weights: "teacher.caffemodel" }
distiller_net: "distiller.prototxt"
base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 max_iter: 100 snapshot: 50 random_seed: 1
snapshot_prefix: "s"
"""
DISTILLER = """layer { name: "kd" type: "DistillingLoss" bottom: "ip" bottom: "teacher/ip"
  top: "kd" RULE }"""


def distillation(folder: Path, rule: str = "", teacher: str = NET) -> Path:
    return write(folder, kd=KD, net=NET, teacher=teacher, distiller=DISTILLER.replace("RULE", rule))


def teach(folder: Path, **change: np.ndarray) -> None:
    net = load_net(folder / "teacher.prototxt", pb.TEST)
    weights = net.weights()
    weights |= {name: [value, *weights[name][1:]] for name, value in change.items()}
    write_weights(folder / "teacher.caffemodel", net.param, weights)


def test_missing_weights_of_the_teacher_are_reported_and_the_rest_is_examined(
    tmp_path: Path,
) -> None:
    path = distillation(tmp_path)
    ((severity, what),) = found(path, "weights_missing")
    assert (severity, "'teacher.caffemodel': no such file" in what) == ("warning", True)
    report = report_of(path)
    assert report.count("error") == 0
    names = [row.name for row in report.costs["TRAIN"].rows]
    assert names == ["in", "teacher/ip", "ip", "loss", "kd"]
    assert report.costs["TRAIN"].learned == 5 * 243 + 5  # the student's: the teacher is frozen


def test_teacher_with_weights_is_examined_as_it_is_trained(tmp_path: Path) -> None:
    path = distillation(tmp_path)
    teach(tmp_path)
    report = report_of(path)
    checks = {f.check.name for f in report.findings}
    assert report.count("error") == 0
    assert not checks & {"weights_missing", "unfrozen_teacher", "layers_without_weights"}
    teach(tmp_path, ip=np.full((5, 243), np.nan, np.float32))
    assert found(path, "weights_not_finite") == [
        ("error", "layer 'teacher/ip': blob 0 is not finite")
    ]


def test_frozen_layer_that_starts_from_a_teachers_is_not_at_random(tmp_path: Path) -> None:
    frozen = NET.replace('name: "ip"', 'name: "own" frozen: true')
    path = write(tmp_path, kd=KD, net=frozen, teacher=NET, distiller=DISTILLER.replace("RULE", ""))
    teach(tmp_path)
    assert [s for s, _ in found(path, "frozen_at_random")] == ["warning"]
    path.write_text(KD + 'inject { layer: "ip" to: "own" }')
    assert found(path, "frozen_at_random") == []


def test_frozen_projection_of_a_teachers_outputs_is_a_note(tmp_path: Path) -> None:
    projection = IP.replace('"data"', '"teacher/ip"').replace('"ip"', '"t"')
    projection = projection.replace("inner_product_param", f"{FREEZE} inner_product_param")
    learning = DISTILLER.replace("RULE", "").replace('"teacher/ip"', '"t"')
    path = write(tmp_path, kd=KD, net=NET, teacher=NET, distiller=projection + learning)
    teach(tmp_path)
    assert [s for s, _ in found(path, "frozen_at_random")] == ["note"]


def test_teacher_that_nothing_in_train_hears(tmp_path: Path) -> None:
    path = distillation(tmp_path, "include { phase: TEST }")
    teach(tmp_path)
    assert found(path, "teacher_unused") == [
        ("error", "no layer of TRAIN takes a blob of 'teacher'")
    ]
    path = distillation(tmp_path)
    assert found(path, "teacher_unused") == []


def test_teacher_that_was_trained_on_other_pixels(tmp_path: Path) -> None:
    net = with_samples(tmp_path, 8)
    other = net.replace("data_param", "transform_param { scale: 0.5 } data_param")
    path = write(tmp_path, kd=KD, net=net, teacher=other, distiller=DISTILLER.replace("RULE", ""))
    ((severity, what),) = found(path, "teacher_sees_other_data")
    assert severity == "warning"
    assert "was written for scale 0.5, and gets 1" in what
    path = write(tmp_path, kd=KD, teacher=net)
    assert found(path, "teacher_sees_other_data") == []
