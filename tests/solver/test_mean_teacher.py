"""A teacher that is a running mean of the student."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffe_kd.core.errors import CaffeKDError, SolverError
from caffe_kd.export.deploy import deploy
from caffe_kd.proto import text
from caffe_kd.proto.binary import read_weights
from tests.solver.training import (
    SETTINGS,
    STUDENT,
    assert_same_weights,
    lines_of,
    make_solver,
    weights_of,
)

DISTILLER = """
layer { name: "p" type: "Softmax" bottom: "ip" top: "p" }
layer { name: "p_mean" type: "Softmax" bottom: "mean/ip" top: "p_mean" }
layer { name: "consistency" type: "EuclideanLoss" bottom: "p" bottom: "p_mean"
  top: "consistency" propagate_down: true propagate_down: false }
"""
MEAN = (
    SETTINGS + 'momentum: 0.9 teacher { name: "mean" ema: 0.7 } distiller_net: "distiller.prototxt"'
)
NORMED = STUDENT.replace(
    'layer { name: "accuracy"',
    'layer { name: "bn" type: "BatchNorm" bottom: "ip" top: "ip" } layer { name: "accuracy"',
)
# float32 products in another order
TOLERANCE = 1e-6


@pytest.fixture(autouse=True)
def _mean(folder: Path) -> None:
    Path("distiller.prototxt").write_text(DISTILLER)
    Path("net.prototxt").write_text(NORMED)


def test_mean_follows_by_the_papers_formula() -> None:
    solver = make_solver(MEAN + " test_iter: 1 test_interval: 2")
    mean = {name: [b.copy() for b in weights_of(solver)[name]] for name in ("ip", "bn")}
    assert_same_weights({k: weights_of(solver)[f"mean/{k}"] for k in mean}, mean)
    for t in range(1, 7):
        solver.step(1)
        a = min(1 - 1 / (t + 1), 0.7)
        for name, blobs in mean.items():
            for index, (blob, now) in enumerate(zip(blobs, weights_of(solver)[name], strict=True)):
                blobs[index] = a * blob + (1 - a) * now
                got = weights_of(solver)[f"mean/{name}"][index]
                scale = max(1, np.abs(got).max())
                assert np.abs(got - blobs[index]).max() < TOLERANCE * scale
    # The test net sees the same mean.
    node = solver.test_nets[0].node_of("mean/ip")
    assert node.layer.blobs[0] is solver.net.node_of("mean/ip").layer.blobs[0]


def test_mean_starts_as_the_weights_that_are_loaded() -> None:
    make_solver(SETTINGS).solve()
    solver = make_solver(MEAN, weights=["solver_iter_6.caffemodel"])
    assert_same_weights({"ip": weights_of(solver)["mean/ip"]}, {"ip": weights_of(solver)["ip"]})
    later = make_solver(MEAN)
    later.load_weights("solver_iter_6.caffemodel")
    later.step(1)
    wanted = [
        (old + new) / 2
        for old, new in zip(weights_of(solver)["ip"], weights_of(later)["ip"], strict=True)
    ]
    for got, want in zip(weights_of(later)["mean/ip"], wanted, strict=True):
        assert np.abs(got - want).max() < TOLERANCE


@pytest.mark.parametrize("kind", ["", "snapshot_format: HDF5"])
def test_snapshots_hold_the_mean_beside_the_student_and_resume_exactly(kind: str) -> None:
    ending = ".h5" if kind else ""
    settings = MEAN + f" max_iter: 9 snapshot: 4 {kind}"
    solver = make_solver(settings)
    solver.solve()
    names = [f"solver{part}_iter_9.caffemodel{ending}" for part in ("", "_mean")]
    before = [read_weights(name) for name in names]
    student, mean = ({x.name: x.blobs for x in layers if x.blobs} for layers in before)
    assert_same_weights(mean, {name: weights_of(solver)[f"mean/{name}"] for name in ("ip", "bn")})
    assert student.keys() == {"ip", "bn"}
    make_solver(settings).solve(f"solver_iter_4.solverstate{ending}")
    for name, layers in zip(names, before, strict=True):
        again = {x.name: x.blobs for x in read_weights(name) if x.blobs}
        assert_same_weights(again, {x.name: x.blobs for x in layers if x.blobs})


def test_resume_without_the_means_weights_is_an_error() -> None:
    make_solver(MEAN).solve()
    Path("solver_mean_iter_6.caffemodel").unlink()
    with pytest.raises(SolverError, match="solver_mean_iter_6.caffemodel is missing. To start"):
        make_solver(MEAN).restore("solver_iter_6.solverstate")


def test_mean_is_not_in_the_teacher_cache() -> None:
    settings = MEAN.replace("distiller.prototxt", "frozen.prototxt") + " max_iter: 20"
    Path("frozen.prototxt").write_text(
        DISTILLER + 'layer { name: "noise" type: "InnerProduct" bottom: "data" top: "noise" '
        "frozen: true inner_product_param { num_output: 2 } }"
    )
    solver = make_solver(settings)
    solver.step(8)
    logged = [line for line in lines_of(solver) if "Caching" in line]
    assert logged == [line for line in logged if "mean" not in line]
    weight, bias = weights_of(solver)["mean/ip"]
    assert any(node.layer.name == "mean/ip" for node in solver.net.running)
    assert np.isfinite(weight).all()
    assert np.isfinite(bias).all()


def test_frozen_layer_keeps_its_parameters_and_has_no_gradient() -> None:
    Path("net.prototxt").write_text(
        STUDENT.replace('name: "ip" type', 'name: "ip" frozen: true type')
    )
    solver = make_solver(SETTINGS + "weight_decay: 0.1 momentum: 0.9")
    before = weights_of(solver)
    solver.solve()
    assert_same_weights(weights_of(solver), before)
    assert [p.lr_mult for p in solver.net.params] == [0, 0]
    deployed = deploy(solver.plan.student, Path("net.prototxt"))
    assert "frozen" not in text.to_text(deployed)  # which Caffe could not read


def test_mean_for_the_tests_alone_leaves_training_as_it_is() -> None:
    Path("distiller.prototxt").write_text(
        'layer { name: "accuracy_mean" type: "Accuracy" bottom: "mean/ip" bottom: "label" '
        'top: "accuracy_mean" include { phase: TEST } }'
    )
    tests = " test_iter: 1 test_interval: 2"
    solver = make_solver(MEAN + tests)
    solver.solve()
    assert any("accuracy_mean = " in line for line in lines_of(solver))
    mean = {x.name: x.blobs for x in read_weights("solver_mean_iter_6.caffemodel") if x.blobs}
    plain = make_solver(SETTINGS + "momentum: 0.9" + tests)
    plain.solve()
    assert_same_weights(weights_of(plain), weights_of(solver))
    assert not np.array_equal(mean["ip"][0], weights_of(solver)["ip"][0])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('name: "mean" ema: 1', "ema must be in 0..1, below 1. Received: 1"),
        ('name: "mean" ema: -0.1', "ema must be in"),
        ('name: "mean" ema: 0.9 weights: "teacher.caffemodel"', "has no weights of its own"),
        ('name: "mean" ema: 0.9 net: "teacher.prototxt"', "averages the student"),
    ],
)
def test_wrong_mean_is_reported(entry: str, message: str) -> None:
    with pytest.raises(CaffeKDError, match=message):
        make_solver(MEAN.replace('name: "mean" ema: 0.7', entry))
