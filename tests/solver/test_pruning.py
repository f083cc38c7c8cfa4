"""Weights that are set to zero while a student learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import SolverError
from caffe_kd.proto.binary import read_weights
from tests.solver.training import (
    DATA,
    DISTIL,
    SETTINGS,
    TEACHER,
    assert_same_weights,
    lines_of,
    make_solver,
    solved,
    weights_of,
)

# With all that stays as it is: biases, normalisation and factors.
NET = (
    'name: "small"'
    + DATA
    + """
layer { name: "image" type: "Reshape" bottom: "data" top: "image"
  reshape_param { shape { dim: 0 dim: 1 dim: 2 dim: 2 } } }
layer { name: "conv" type: "Convolution" bottom: "image" top: "conv"
  convolution_param { num_output: 5 kernel_size: 2 weight_filler { type: "gaussian" std: 0.3 }
    bias_filler { type: "constant" value: 0.001 } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "ip1" type: "InnerProduct" bottom: "conv" top: "ip1"
  inner_product_param { num_output: 4 weight_filler { type: "gaussian" std: 1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "ip1" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "gaussian" std: 0.5 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
)
SIZES = {"conv": 20, "ip1": 20, "ip": 12}
ALL = sum(SIZES.values())
RUN = SETTINGS + "momentum: 0.9 max_iter: 20 snapshot: 10 snapshot_prefix: 'p'\n"
ONCE = "pruning { sparsity: 0.5 policy: ONE_SHOT }"
GRADUAL = "pruning { sparsity: 0.8 begin_iter: 4 end_iter: 15 frequency: 3 }"


@pytest.fixture(autouse=True)
def _net(folder: Path) -> None:
    Path("net.prototxt").write_text(NET)


def zeros(solver) -> dict[str, int]:
    """Return how many weights are zero, by layer."""
    return {name: int((weights_of(solver)[name][0] == 0).sum()) for name in SIZES}


def total(solver) -> int:
    return sum(zeros(solver).values())


def sizes_of(weights: dict[str, list[np.ndarray]]) -> np.ndarray:
    return np.concatenate([np.abs(weights[name][0]).ravel() for name in SIZES])


def expected_zeros(t: int) -> int:
    """By the formula of Zhu and Gupta, of the last step until then."""
    if t < 4:
        return 0
    at = 15 if t >= 15 else 4 + (t - 4) // 3 * 3
    return round(ALL * 0.8 * (1 - (1 - (at - 4) / 11) ** 3))


def test_share_of_zeros_follows_the_cubic_schedule() -> None:
    solver = make_solver(RUN + GRADUAL)
    for t in range(1, 21):
        solver.step(1)
        assert total(solver) == expected_zeros(t), t
    assert total(solver) == round(0.8 * ALL)


def test_smallest_of_all_layers_are_pruned_and_others_keep_their_values() -> None:
    free, pruned = (
        make_solver(RUN),
        make_solver(RUN + "pruning { sparsity: 0.5 begin_iter: 3 policy: ONE_SHOT }"),
    )
    for solver in (free, pruned):
        solver.step(3)
    before, after = weights_of(free), weights_of(pruned)
    limit = np.sort(sizes_of(before))[ALL // 2 - 1]
    for name, (weights, *_) in before.items():
        if name in SIZES:
            expected = np.where(np.abs(weights) <= limit, 0, weights)
            assert np.array_equal(after[name][0], expected), name
    assert len(set(zeros(pruned).values())) > 1  # a share of its own for each layer
    rest = {k: v[1:] if k in SIZES else v for k, v in before.items()}
    assert_same_weights(rest, {k: v[1:] if k in SIZES else v for k, v in after.items()})


def test_scope_layer_prunes_the_same_share_of_each_layer() -> None:
    solver = solved(RUN + "pruning { sparsity: 0.5 policy: ONE_SHOT scope: LAYER }")
    assert zeros(solver) == {name: size // 2 for name, size in SIZES.items()}


def test_excluded_layers_stay_as_they_are() -> None:
    solver = solved(
        RUN + 'pruning { sparsity: 0.5 policy: ONE_SHOT exclude: "ip" exclude: "conv" }'
    )
    assert zeros(solver) == {"conv": 0, "ip1": 10, "ip": 0}


@pytest.mark.parametrize("type", ["SGD", "Nesterov", "Adam"])
@pytest.mark.parametrize("more", ["", "iter_size: 2 ", "clip_gradients: 0.1 "])
def test_pruned_weights_stay_zero_and_others_learn(type: str, more: str) -> None:
    solver = make_solver(RUN + f'type: "{type}" {more}' + ONCE)
    solver.step(1)
    first = weights_of(solver)
    masks = {name: first[name][0] == 0 for name in SIZES}
    assert sum(int(mask.sum()) for mask in masks.values()) == ALL // 2
    solver.step(8)
    for name, mask in masks.items():
        now = weights_of(solver)[name][0]
        assert np.array_equal(now == 0, mask), name
        assert (now[~mask] != first[name][0][~mask]).any()


def test_gradients_of_pruned_weights_do_not_count_when_clipping() -> None:
    solver = make_solver(
        RUN + "clip_gradients: 1e-3 display: 1 pruning { sparsity: 0.9 policy: ONE_SHOT }"
    )
    solver.step(1)
    masks = {name: weights_of(solver)[name][0] == 0 for name in SIZES}
    solver.step(1)
    for node in solver.net.nodes:
        if node.layer.name in masks:
            gradient = node.layer.blobs[0].grad.numpy()
            assert not gradient[masks[node.layer.name]].any()


@pytest.mark.parametrize(
    "more",
    [
        GRADUAL,
        GRADUAL.replace("frequency", "scope: LAYER frequency"),
        "pruning { sparsity: 0.6 policy: ONE_SHOT begin_iter: 5 }",
        "pruning { keep_zeros: true }",
    ],
)
def test_resumed_run_gives_the_same_bits(more: str) -> None:
    whole = solved(RUN + more)
    before = Path("p_iter_20.caffemodel").read_bytes()
    state = Path("p_iter_20.solverstate").read_bytes()
    resumed = make_solver(RUN + more)
    resumed.solve("p_iter_10.solverstate")
    assert Path("p_iter_20.caffemodel").read_bytes() == before
    assert Path("p_iter_20.solverstate").read_bytes() == state
    assert lines_of(whole)[-1] == lines_of(resumed)[-1]


def test_masks_come_from_the_resume_file_and_not_from_the_zeros() -> None:
    solver = make_solver(RUN + GRADUAL)
    solver.step(10)
    with torch.no_grad():  # a weight that is zero by chance learns on
        blob = next(n for n in solver.net.nodes if n.layer.name == "ip1").layer.blobs[0]
        index = int(blob.detach().flatten().abs().argmax())
        blob.view(-1)[index] = 0
    _, state = solver.snapshot()
    resumed = make_solver(RUN + GRADUAL)
    resumed.restore(state)
    for one in (solver, resumed):
        one.step(1)
        assert weights_of(one)["ip1"][0].ravel()[index] != 0
    assert_same_weights(weights_of(solver), weights_of(resumed))


def test_zeros_stay_where_the_resume_file_is_missing() -> None:
    solved(RUN + GRADUAL)
    pruned = {
        x.name: x.blobs[0] == 0 for x in read_weights("p_iter_20.caffemodel") if x.name in SIZES
    }
    Path("p_iter_20.resume").unlink()
    resumed = make_solver(RUN.replace("20", "24") + GRADUAL)
    resumed.solve("p_iter_20.solverstate")
    for name, mask in pruned.items():
        assert np.array_equal(weights_of(resumed)[name][0] == 0, mask)


def test_pruning_may_begin_from_the_snapshot_of_a_run_without() -> None:
    solved(RUN)
    resumed = make_solver(RUN.replace("20", "24") + GRADUAL)
    resumed.solve("p_iter_20.solverstate")
    assert total(resumed) == round(0.8 * ALL)


@pytest.mark.parametrize(
    "more", ["pruning { sparsity: 0 }", "pruning { sparsity: 0.5 begin_iter: 50 }"]
)
def test_trajectory_without_zeros_keeps_its_bits(more: str) -> None:
    run = RUN + "clip_gradients: 1 weight_decay: 0.01 "
    free, kept = solved(run), solved(run + more)
    assert_same_weights(weights_of(free), weights_of(kept))
    history = zip(free.updater.history(), kept.updater.history(), strict=True)
    assert all(torch.equal(a, b) for a, b in history)


def test_zeros_of_a_pruned_model_are_kept_when_it_is_trained_further() -> None:
    solved(RUN + GRADUAL.replace("frequency", "scope: LAYER frequency"))
    files = {"weights": ["p_iter_20.caffemodel"]}
    again = RUN.replace("'p'", "'q'")
    start = {x.name: x.blobs[0] for x in read_weights("p_iter_20.caffemodel") if x.name in SIZES}
    kept = solved(again + "pruning { keep_zeros: true }", **files)
    for name, weights in start.items():
        now = weights_of(kept)[name][0]
        assert np.array_equal(now == 0, weights == 0)
        assert not np.array_equal(now, weights)
    assert any("keeps the zeros of the start: sparsity 0.8077" in x for x in lines_of(kept))
    more = solved(again + "pruning { keep_zeros: true sparsity: 0.9 policy: ONE_SHOT }", **files)
    assert total(more) == round(0.9 * ALL)
    assert all(((weights_of(more)[name][0] == 0) >= (start[name] == 0)).all() for name in SIZES)


def test_layer_of_zeros_alone_is_not_kept(folder: Path) -> None:
    filler = 'num_output: 4 weight_filler { type: "gaussian" std: 1 }'
    Path("net.prototxt").write_text(NET.replace(filler, "num_output: 4"))
    solver = solved(RUN + "pruning { keep_zeros: true }")
    assert "layer 'ip1' has only zeros" in "\n".join(lines_of(solver))
    assert weights_of(solver)["ip1"][0].any()


def test_teacher_and_distiller_are_not_pruned(folder: Path) -> None:
    regressor = """
layer { name: "regressor" type: "InnerProduct" bottom: "ip1" top: "regressor"
  inner_product_param { num_output: 6 weight_filler { type: "xavier" } } include { phase: TRAIN } }
layer { name: "hint" type: "EuclideanLoss" bottom: "regressor" bottom: "teacher/norm" top: "hint"
  include { phase: TRAIN } }
"""
    distiller = Path("distiller.prototxt")
    distiller.write_text(distiller.read_text() + regressor)
    assert "ip1" in TEACHER
    solver = make_solver(DISTIL + ONCE)
    teacher = {k: v for k, v in weights_of(solver).items() if k.startswith("teacher/")}
    solver.solve()
    now = weights_of(solver)
    assert_same_weights(teacher, {k: now[k] for k in teacher})
    assert total(solver) == ALL // 2 and now["regressor"][0].all()


def test_mean_teacher_follows_the_pruned_weights() -> None:
    mean = 'teacher { name: "mean" ema: 0 } '
    Path("net.prototxt").write_text(NET)
    Path("distiller.prototxt").write_text(
        'layer { name: "c" type: "EuclideanLoss" bottom: "ip" bottom: "mean/ip" top: "c" '
        "loss_weight: 0 propagate_down: true propagate_down: false }"
    )
    more = mean + 'distiller_net: "distiller.prototxt" pruning { sparsity: 0.5 policy: ONE_SHOT }'
    solver = solved(RUN + more)
    for name in SIZES:
        assert np.array_equal(weights_of(solver)[f"mean/{name}"][0], weights_of(solver)[name][0])


def test_each_of_several_students_has_its_share() -> None:
    larger = NET.replace("std: 1 }", "std: 3 }")
    Path("large.prototxt").write_text(larger)
    Path("distiller.prototxt").write_text(
        'layer { name: "kd" type: "DistillingLoss" bottom: "a/ip" bottom: "b/ip" top: "kd" }'
    )
    students = (
        'student { name: "a" net: "net.prototxt" } student { name: "b" net: "large.prototxt" } '
        'distiller_net: "distiller.prototxt" ' + ONCE.replace("policy", 'exclude: "b/ip" policy')
    )
    solver = solved(RUN.replace('net: "net.prototxt"', "") + students)
    weights = weights_of(solver)
    count = {s: sum(int((weights[f"{s}/{n}"][0] == 0).sum()) for n in SIZES) for s in "ab"}
    assert count == {"a": ALL // 2, "b": (ALL - SIZES["ip"]) // 2}


def test_weights_that_layers_share_have_one_mask() -> None:
    shared = NET.replace('top: "ip1"', 'top: "ip1" param { name: "w" }').replace(
        'layer { name: "ip" ',
        'layer { name: "twin" type: "InnerProduct" bottom: "conv" top: "twin" param { name: "w" } '
        'inner_product_param { num_output: 4 } } layer { name: "silence" type: "Silence" '
        'bottom: "twin" } layer { name: "ip" ',
    )
    Path("net.prototxt").write_text(shared)
    solver = solved(RUN + ONCE)
    assert total(solver) == ALL // 2
    assert np.array_equal(weights_of(solver)["twin"][0], weights_of(solver)["ip1"][0])
    assert "of 52 weights are 0" in "\n".join(lines_of(solver))


def test_frozen_weights_are_not_pruned() -> None:
    frozen = NET.replace('top: "ip1"', 'top: "ip1" param { lr_mult: 0 }')
    Path("net.prototxt").write_text(frozen)
    assert zeros(solved(RUN + ONCE))["ip1"] == 0


def test_snapshot_has_the_zeros_and_the_log_says_what_they_are_good_for() -> None:
    solver = solved(RUN + GRADUAL)
    for t in (10, 20):
        blobs = {x.name: x.blobs for x in read_weights(f"p_iter_{t}.caffemodel")}
        assert sum(int((blobs[name][0] == 0).sum()) for name in SIZES) == expected_zeros(t)
    lines = "\n".join(lines_of(solver))
    assert "Pruning, iteration 7: sparsity 0.5000, 26 of 52 weights are 0" in lines
    assert lines.count("Pruning, iteration") == 4  # 7, 10, 13 and 15; s is 0 in 4
    assert "Pruning: sparsity 0.8077, 42 of 52 weights are 0" in lines
    assert "ONNX Runtime and ncnn gain nothing from scattered zeros" in lines
    assert "caffe_kd prune" in lines


def test_layer_without_a_weight_left_is_a_warning() -> None:
    Path("net.prototxt").write_text(NET.replace("std: 0.3", "std: 0.0003"))
    solver = solved(RUN + ONCE)
    assert "layer 'conv' has no weight left. scope: LAYER" in "\n".join(lines_of(solver))


def test_end_beyond_the_training_is_a_warning() -> None:
    solver = make_solver(RUN + "pruning { sparsity: 0.5 end_iter: 30 }")
    assert "pruning ends in iteration 30, beyond max_iter 20" in "\n".join(lines_of(solver))
    by_default = solved(RUN + "pruning { sparsity: 0.5 }")
    assert "Pruning, iteration 15: sparsity 0.5000" in "\n".join(lines_of(by_default))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("", "sparsity is the share of zeros at the end, 0 to below 1. Received: nothing"),
        ("sparsity: 1", "0 to below 1. Received: sparsity: 1"),
        ("sparsity: -0.1", "0 to below 1"),
        ("sparsity: nan", "0 to below 1"),
        ("sparsity: 0.5 begin_iter: -1", "begin_iter must not be negative"),
        ("sparsity: 0.5 frequency: 0", "frequency must be at least 1"),
        ("sparsity: 0.5 begin_iter: 5 end_iter: 5", "end_iter must be after begin_iter"),
        ("sparsity: 0.5 policy: ONE_SHOT end_iter: 5", "leave end_iter out"),
        ('sparsity: 0.5 exclude: "ip3"', "exclude names 'ip3'.* Such are: conv, ip1, ip"),
        ('sparsity: 0.5 exclude: "teacher/ip"', "no layer of the student"),
        ('sparsity: 0.5 exclude: "conv" exclude: "ip" exclude: "ip1"', "has no weights that learn"),
    ],
)
def test_setting_that_cannot_be_meant_is_refused_with_its_line(setting: str, words: str) -> None:
    with pytest.raises(SolverError, match=f"solver.prototxt:3: pruning: .*{words}"):
        make_solver(RUN + f"pruning {{ {setting} }}")
