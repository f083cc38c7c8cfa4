"""The reported effect of the train command's flags, compared with what training does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffe_kd.analysis.reading import Target, read_target
from caffe_kd.core.errors import UsageError
from caffe_kd.data.backends.idx import write_idx
from caffe_kd.doctor.explain import objectives
from caffe_kd.doctor.train_flags import CacheEffect, cache_effect, override
from caffe_kd.solver import frozen
from caffe_kd.solver.options import Options
from caffe_kd.solver.plan import Overrides, read_plan
from caffe_kd.solver.solver import Solver
from tests.solver.training import (
    DATA,
    DISTIL,
    DISTILLER,
    ROWS,
    SETTINGS,
    STUDENT,
    MemoryLog,
    write_rows,
    write_teacher,
)

LABELLED = DISTILLER.replace('bottom: "teacher/ip"', 'bottom: "teacher/ip" bottom: "label"')
IMAGES = """
layer { name: "data" type: "Data" top: "data" top: "label" transform_param { TRANSFORM }
  data_param { source: "images-idx3-ubyte" backend: IDX batch_size: 4 } }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path)
    write_teacher(tmp_path)
    (tmp_path / "net.prototxt").write_text(STUDENT)
    (tmp_path / "distiller.prototxt").write_text(LABELLED)
    (tmp_path / "solver.prototxt").write_text(DISTIL + "max_iter: 4")
    return tmp_path


def use_images(transform: str) -> None:
    """Make the student's and the teacher's samples images of 2 x 2 pixels."""
    draw = np.random.default_rng(0)
    write_idx(Path("images-idx3-ubyte"), draw.integers(0, 256, (ROWS, 2, 2), np.uint8))
    write_idx(Path("labels-idx1-ubyte"), draw.integers(0, 3, ROWS).astype(np.uint8))
    images = IMAGES.replace("TRANSFORM", transform)
    for name in ("net", "teacher"):
        path = Path(f"{name}.prototxt")
        path.write_text(path.read_text().replace(DATA, images))


def solver_case() -> Target:
    return read_target("solver.prototxt")


def logged(mode: str) -> list[str]:
    """Return the lines of a started training about the cache."""
    log = MemoryLog()
    Solver(read_plan("solver.prototxt"), log, options=Options(teacher_cache=mode)).step(1)
    return log.matching("^Caching|^No teacher cache")


@pytest.mark.parametrize(
    "flags", [{"temperature": 8.0}, {"alpha": 0.25}, {"temperature": 2.0, "alpha": 1.0}]
)
def test_overridden_loss_is_the_one_that_is_trained(folder: Path, flags: dict[str, float]) -> None:
    target = solver_case()
    changes = override(target, flags.get("temperature"), flags.get("alpha"), {})
    plan = read_plan("solver.prototxt", Overrides(**flags))
    assert changes and set(changes) <= set(plan.notes)
    node = Solver(plan, MemoryLog()).net.node_of("kd")
    (term,) = [t for t in objectives(target)[0].terms if t.top == "kd"]
    assert node is not None and term.formula == node.layer.explain(node.bottom_shapes)


def test_overriding_counts_where_the_teacher_is_not_trained_yet(folder: Path) -> None:
    (folder / "teacher.caffemodel").unlink()
    target = solver_case()
    override(target, 8.0, None, {})
    (term,) = [t for t in objectives(target)[0].terms if t.top == "kd"]
    assert term.temperature == "8" and "softmax(z / 8)" in term.formula[1]


def test_overriding_nothing_is_refused_as_in_training(folder: Path) -> None:
    content = LABELLED.replace("DistillingLoss", "EuclideanLoss").replace(' bottom: "label"', "")
    (folder / "distiller.prototxt").write_text(content)
    with pytest.raises(UsageError) as refused:
        read_plan("solver.prototxt", Overrides(temperature=8.0))
    with pytest.raises(UsageError, match="need a DistillingLoss layer") as raised:
        override(solver_case(), 8.0, None, {})
    assert str(raised.value) == str(refused.value)
    assert override(solver_case(), None, None, {}) == []


@pytest.mark.parametrize("mode", ["auto", "memory", "disk"])
def test_what_is_cached_is_what_training_caches(folder: Path, mode: str) -> None:
    found = cache_effect(solver_case(), mode)
    (line,) = logged(mode)
    assert found is not None and not found.refused
    what = line.partition(" ")[2].split(" MB")[0]
    assert found.text.startswith(f"teacher_cache {mode}: caches {what} MB")
    assert found.text.endswith("on disk" if mode == "disk" else "in memory")


@pytest.mark.parametrize("transform", ["mirror: true", "crop_size: 2", "jitter: 1"])
def test_cache_before_which_random_augmentation_stands_is_none(
    folder: Path, transform: str
) -> None:
    use_images(transform)
    found = cache_effect(solver_case(), "auto")
    (line,) = logged("auto")
    reason = line.removeprefix("No teacher cache: ")
    assert "augments its samples at random" in reason
    assert found == CacheEffect(f"teacher_cache auto: caches nothing: {reason}")
    for mode in ("memory", "disk"):
        with pytest.raises(UsageError) as refused:
            logged(mode)
        assert cache_effect(solver_case(), mode) == CacheEffect(
            f"training refuses {refused.value}", refused=True
        )


def test_cache_that_does_not_pay_or_fit_is_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "solver.prototxt").write_text(DISTIL + "max_iter: 2")
    found = cache_effect(solver_case(), "auto")
    assert logged("auto") == ["No teacher cache: the training uses each sample once at most"]
    assert found is not None and found.text.endswith("uses each sample once at most")
    (folder / "solver.prototxt").write_text(DISTIL + "max_iter: 2 iter_size: 2")
    found = cache_effect(solver_case(), "auto")
    assert found is not None and "caches the outputs of 5 frozen layers" in found.text
    monkeypatch.setattr(frozen, "AUTO_LIMIT", 1)
    found = cache_effect(solver_case(), "auto")
    assert found is not None and "-teacher_cache disk stores it on disk" in found.text


def test_teacher_that_follows_the_student_is_not_cached(folder: Path) -> None:
    settings = SETTINGS + 'teacher { ema: 0.9 } distiller_net: "distiller.prototxt" max_iter: 4'
    (folder / "solver.prototxt").write_text(settings)
    found = cache_effect(solver_case(), "auto")
    assert logged("auto") == ["No teacher cache: no layer with parameters is frozen"]
    assert found is not None and found.text.endswith("no layer with parameters is frozen")


def test_off_is_reported_and_a_net_without_frozen_layers_has_no_cache(folder: Path) -> None:
    assert cache_effect(solver_case(), "off") == CacheEffect(
        "teacher_cache off: frozen layers run on each batch"
    )
    (folder / "solver.prototxt").write_text(SETTINGS + "max_iter: 4")
    assert cache_effect(solver_case(), "auto") is None and logged("auto") == []
    found = cache_effect(solver_case(), "memory")
    assert found is not None and found.refused


def test_frozen_trunk_is_reported_without_a_teacher(folder: Path) -> None:
    trunk = STUDENT.replace("lr_mult: 1", "lr_mult: 0").replace("lr_mult: 2", "lr_mult: 0")
    head = """layer { name: "fc" type: "InnerProduct" bottom: "ip" top: "fc"
      inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
    layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }"""
    (folder / "net.prototxt").write_text(trunk.split('layer { name: "accuracy"')[0] + head)
    (folder / "solver.prototxt").write_text(SETTINGS + "max_iter: 4")
    found = cache_effect(solver_case(), "auto")
    assert (
        found is not None
        and "caches the outputs of 1 frozen layers: ip for 10 samples" in found.text
    )
    assert len(logged("auto")) == 1


def test_cache_is_not_known_without_the_data(folder: Path) -> None:
    (folder / "rows.txt").unlink()
    found = cache_effect(solver_case(), "auto")
    assert found is not None and found.text.startswith("teacher_cache auto: not known: ")
    assert "rows.txt" in found.text
