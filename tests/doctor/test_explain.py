"""The explained objective of a solver, compared with what the solver's net computes."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_kd.analysis.reading import read_target
from caffe_kd.doctor.explain import Objective, as_text, findings, objectives
from caffe_kd.solver.plan import read_plan
from caffe_kd.solver.solver import Solver
from tests.solver.training import (
    DISTIL,
    DISTILLER,
    STUDENT,
    MemoryLog,
    write_rows,
    write_teacher,
)

HINT = """
layer { name: "regressor" type: "InnerProduct" bottom: "ip" top: "regressor"
  inner_product_param { num_output: 6 weight_filler { type: "xavier" } } }
layer { name: "hint" type: "HintLoss" bottom: "regressor" bottom: "teacher/norm" loss_weight: 3
  loss_weight_schedule { point { iter: 5 value: 0 } point { iter: 9 value: 2 } } }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path)
    (tmp_path / "net.prototxt").write_text(STUDENT)
    (tmp_path / "distiller.prototxt").write_text(DISTILLER + HINT)
    write_teacher(tmp_path)
    (tmp_path / "solver.prototxt").write_text(DISTIL + "max_iter: 4 weight_decay: 0.25")
    return tmp_path


def trained(objective_of: str = "solver.prototxt") -> Objective:
    first = objectives(read_target(objective_of))[0]
    assert first.view.is_training
    return first


def test_terms_are_those_of_the_solvers_objective(folder: Path) -> None:
    solver = Solver(read_plan("solver.prototxt"), MemoryLog())
    weights = {n: w for n, w in solver.net.loss_weights.items() if w}
    terms = trained().terms
    assert {t.top: t.weight for t in terms} == {"kd": 1, "loss": 1, "hint": 3}
    assert weights == {"kd": 1, "loss": 1}  # the schedule begins with 0


@pytest.mark.parametrize(
    ("param", "words"),
    [
        ("", "the probabilities softened at temperature 4 (the default): 0.5 of teacher/out, 0.5"),
        ("temperature: 2 weight: 3 weight: 1", "temperature 2: 0.75 of teacher/out, 0.25 of"),
        ("mean: LOGITS", "the logits (a geometric mean of the probabilities, at any temperature)"),
    ],
)
def test_what_an_ensemble_averages_is_said(folder: Path, param: str, words: str) -> None:
    loss = next(line for line in DISTILLER.splitlines() if "teacher/" in line)
    blob = next(part for part in loss.split('"') if part.startswith("teacher/"))
    ensemble = (
        f'layer {{ name: "ens" type: "TeacherEnsemble" bottom: "{blob}" bottom: "{blob}" '
        f'top: "ens" teacher_ensemble_param {{ {param} }} }}\n'
    )
    changed = DISTILLER.replace(f'"{blob}"', '"ens"')
    (folder / "distiller.prototxt").write_text(ensemble + changed)
    lines = [line for line in as_text(read_target("solver.prototxt")) if " averages " in line]
    assert len(lines) == 1
    assert "'ens' (TeacherEnsemble) averages " in lines[0]
    assert words.replace("teacher/out", blob) in lines[0]


@pytest.mark.parametrize("propagate", ["", "propagate_down: [false, false]"])
def test_layers_listed_with_gradient_are_those_that_get_one(folder: Path, propagate: str) -> None:
    content = (DISTILLER + HINT).replace('type: "HintLoss"', f'type: "HintLoss" {propagate}')
    (folder / "distiller.prototxt").write_text(content)
    net = Solver(read_plan("solver.prototxt"), MemoryLog()).net
    net.set_iteration(9)
    net()
    for term in trained().terms:
        node = net.node_of(term.node.proto.name)
        assert node is not None
        net.zero_grad()
        bottoms = [net.blobs[name] for name in node.bottoms]
        pairs = zip(bottoms, node.detached, strict=True)
        value = node.layer(*(b.detach() if cut else b for b, cut in pairs))
        reached = set()
        if value.requires_grad:
            value.backward(retain_graph=True)
            reached = {p.layer.name for p in net.params if p.blob.grad is not None}
        said = {name for names in term.with_gradient.values() for name in names}
        assert said == reached, term.top


def test_text_has_terms_decay_and_schedule(folder: Path) -> None:
    lines = list(as_text(read_target("solver.prototxt")))
    text = "\n".join(lines)
    assert "teacher 'teacher': weights teacher.caffemodel, 5 layers in phase TEST" in text
    assert "objective = 1 * loss + 1 * kd + 3 * loss_weight_schedule * hint" in text
    assert "+ 0.25 * sum of decay_mult * w^2 / 2 (weight_decay) over" in text
    assert "student: ip" in text and "distiller: regressor" in text
    assert "loss = 4^2 * sum of p_t * (log p_t - log p_s) / 4, p = softmax(z / 4)" in text
    assert "iteration 5: 0 linearly to 2 in iteration 9" in text
    assert "teacher 'teacher': none" in text
    assert "distiller.prototxt:2" in text  # where the loss is
    assert "left out in TRAIN" not in text


def test_test_net_and_what_rules_leave_out_are_reported(folder: Path) -> None:
    with open("solver.prototxt", "a") as file:
        file.write("\ntest_iter: 1 test_interval: 2 train_state { stage: 'distil' }")
    content = STUDENT.replace(
        'bottom: "label" top: "loss" }',
        'bottom: "label" top: "loss" exclude { phase: TRAIN stage: "distil" } }',
    )
    (folder / "net.prototxt").write_text(content)
    text = "\n".join(as_text(read_target("solver.prototxt")))
    assert "TRAIN, stage distil: what is minimised" in text
    rule = 'exclude { phase: TRAIN stage: "distil" }'
    assert f"left out in TRAIN: 'loss' (SoftmaxWithLoss), net.prototxt:10: {rule}" in text
    assert "left out in TEST: 'kd' (DistillingLoss)" in text
    assert "TEST: computed without training" in text


def test_data_and_weights_need_not_be_there(folder: Path) -> None:
    (folder / "teacher.caffemodel").unlink()
    (folder / "rows.txt").unlink()
    target = read_target("solver.prototxt")
    text = "\n".join(as_text(target))
    assert "hint_loss" not in text
    assert "HintLoss" in text and "loss = mean over all values of (f_s - f_t)^2" in text
    assert {"weights_missing", "data_absent"} <= {f.check.name for f in findings(target)}
    assert "gradient to  not known: see below" in text
    assert "gradient to  none" not in text


def test_findings_are_of_distillation_or_errors(folder: Path) -> None:
    content = DISTILLER.replace('top: "kd"', 'top: "kd" loss_weight: 0')
    (folder / "distiller.prototxt").write_text(content)
    found = findings(read_target("solver.prototxt"))
    assert [f.check.name for f in found] == ["zero_loss_weight"]  # and not that there is no test


def test_slimming_is_a_term_over_the_students_factors(folder: Path) -> None:
    norm = (
        'layer { name: "bn" type: "BatchNorm" bottom: "data" top: "x" } '
        'layer { name: "factor" type: "Scale" bottom: "x" top: "x" } '
        'layer { name: "alone" type: "Scale" bottom: "x" top: "x" } layer { name: "ip"'
    )
    Path("net.prototxt").write_text(
        STUDENT.replace('layer { name: "ip"', norm).replace(
            'type: "InnerProduct" bottom: "data"', 'type: "InnerProduct" bottom: "x"'
        )
    )
    Path("solver.prototxt").write_text(DISTIL + "max_iter: 4 slimming: 0.001")
    lines = list(as_text(read_target("solver.prototxt")))
    at = lines.index("    + 0.001 * sum of decay_mult * |gamma| (slimming) over")
    assert lines[at + 1] == "        student: factor"
