"""The files of trials, and that none of them sees a test record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from caffe_kd.cli.train import main as train
from caffe_kd.core.errors import CaffeKDError, SolverError
from caffe_kd.recipes.search.target import NET, SOLVER, SearchTarget, write
from caffe_kd.solver.plan import read_plan
from tests.cli.small import SAMPLES, write_examples

ITERATIONS = 12


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    write_examples(folder, ITERATIONS)
    assert train(["-solver", str(folder / "teacher_solver.prototxt"), "-no_progress"]) == 0
    return folder


def target(folder: Path, name: str = "kd_solver.prototxt", said: Any = None) -> SearchTarget:
    return SearchTarget(folder / name, None, None, (said if said is not None else []).append)


def data_params(net: Any) -> list[Any]:
    return [layer.data_param for layer in net.layer if layer.type == "Data"]


def test_last_tenth_validates_and_is_not_trained_on(examples: Path) -> None:
    said: list[str] = []
    net = target(examples, said=said).trial({})[NET]
    training, validating = data_params(net)
    held = SAMPLES["train"] // 10
    assert (training.first, training.count) == (0, SAMPLES["train"] - held)
    assert (validating.first, validating.count) == (SAMPLES["train"] - held, held)
    assert {Path(x.source).name for x in (training, validating)} == {"train-images-idx3-ubyte"}
    assert said == ["validation: the last tenth of the training samples, which no trial trains on"]


def test_final_solver_trains_on_all_and_is_tested_on_the_tests(examples: Path) -> None:
    training, tested = data_params(target(examples).final({"base_lr": 0.5})[NET])
    assert (training.first, training.HasField("count")) == (0, False)
    assert Path(tested.source).name == "t10k-images-idx3-ubyte"


def test_settings_reach_solver_and_nets(examples: Path, tmp_path: Path) -> None:
    values = {"temperature": 7, "alpha": 0.25, "base_lr": 0.5, "weight_decay": 0.125}
    found = target(examples)
    assert found.own == pytest.approx(
        {"temperature": 4, "alpha": 0.9, "base_lr": 0.02, "batch_size": 16, "weight_decay": 0}
    )
    plan = read_plan(write(tmp_path, found.final(values), "best_"))
    assert (plan.solver.base_lr, plan.solver.weight_decay) == (0.5, 0.125)
    (loss,) = (x for x in plan.train.param.layer if x.type == "DistillingLoss")
    param = loss.distilling_loss_param
    assert (param.temperature, param.alpha) == (7, 0.25)


def test_stated_loss_weights_of_the_distiller_change_together(
    examples: Path, tmp_path: Path
) -> None:
    distiller = (examples / "distiller.prototxt").read_text()
    distiller = distiller.replace('top: "distilling_loss"', 'top: "distilling_loss" loss_weight: 2')
    distiller += (
        'layer { name: "mse" type: "EuclideanLoss" bottom: "ip2" bottom: "teacher/ip2" top: "mse" '
        "include { phase: TRAIN } loss_weight: 0.5 }"
    )
    (tmp_path / "distiller.prototxt").write_text(distiller)
    solver = (examples / "kd_solver.prototxt").read_text()
    for name in ("student_train_test", "teacher_train_test"):
        solver = solver.replace(f'"{name}', f'"{examples.as_posix()}/{name}')
    (tmp_path / "kd_solver.prototxt").write_text(solver)
    found = target(tmp_path)
    assert found.own["loss_weight"] == 2
    for layer, wanted in zip(
        found.trial({"loss_weight": 6})["distiller.prototxt"].layer, (6, 1.5), strict=True
    ):
        assert list(layer.loss_weight) == [wanted]
    assert "loss_weight" not in target(examples).own


def test_other_batches_see_as_many_records(examples: Path) -> None:
    found = target(examples)
    for size in (8, 32):
        messages = found.trial({"batch_size": size})
        training, validating = data_params(messages[NET])
        assert training.batch_size == size
        assert validating.batch_size * messages[SOLVER].test_iter[0] == validating.count
        assert messages[SOLVER].max_iter * size == ITERATIONS * 16


def test_schedule_of_pruning_sees_as_many_records(examples: Path, tmp_path: Path) -> None:
    solver = (examples / "student_solver.prototxt").read_text()
    solver = solver.replace('"student_train_test', f'"{examples.as_posix()}/student_train_test')
    more = "pruning { sparsity: 0.5 begin_iter: 2 end_iter: 8 frequency: 1 }"
    (tmp_path / "student_solver.prototxt").write_text(solver + more)
    found = target(tmp_path, "student_solver.prototxt")
    for size, times in ((8, 2), (32, 0.5)):
        pruning = found.trial({"batch_size": size})[SOLVER].pruning
        assert (pruning.begin_iter, pruning.end_iter) == (2 * times, 8 * times)
        assert pruning.frequency == max(1, times)


def test_rounding_begins_and_its_ranges_freeze_after_as_many_records(
    examples: Path, tmp_path: Path
) -> None:
    solver = (examples / "student_solver.prototxt").read_text()
    solver = solver.replace('"student_train_test', f'"{examples.as_posix()}/student_train_test')
    more = "quantization { start_iter: 2 freeze_range_iter: 8 }"
    (tmp_path / "student_solver.prototxt").write_text(solver + more)
    found = target(tmp_path, "student_solver.prototxt")
    for size, times in ((8, 2), (32, 0.5)):
        rounding = found.trial({"batch_size": size})[SOLVER].quantization
        assert (rounding.start_iter, rounding.freeze_range_iter) == (2 * times, 8 * times)


def test_a_trial_is_tested_on_its_way_and_leaves_no_snapshots(examples: Path) -> None:
    solver = target(examples).trial({})[SOLVER]
    assert solver.test_interval == ITERATIONS // 8  # its own 6 would give 2 tests
    assert (solver.snapshot, solver.snapshot_after_train) == (0, False)


def with_validation(folder: Path, into: Path, training: str) -> Path:
    """Write the student's solver with a data layer of its own for validation."""
    net = (folder / "student_train_test.prototxt").read_text()
    assert net.count("include { phase: TEST }") == 2
    net = net.replace(
        "include { phase: TEST }", 'include { phase: TEST not_stage: "validation" }', 1
    )
    net = net.replace("batch_size: 16 }", f"batch_size: 16 {training} }}", 1)
    net += f"""
layer {{ name: "mnist" type: "Data" top: "data" top: "label"
  include {{ phase: TEST stage: "validation" }} transform_param {{ scale: 0.00390625 }}
  data_param {{ source: "{folder.as_posix()}/train-images-idx3-ubyte" backend: IDX batch_size: 10
    first: 50 count: 40 }} }}
"""
    into.mkdir(exist_ok=True)
    (into / "student_train_test.prototxt").write_text(net)
    solver = (folder / "student_solver.prototxt").read_text()
    solver = solver.replace("test_iter: 2", 'test_iter: 4 test_state { stage: "validation" }')
    (into / "student_solver.prototxt").write_text(solver)
    return into / "student_solver.prototxt"


def test_a_nets_own_validation_records_are_used(examples: Path, tmp_path: Path) -> None:
    path = with_validation(examples, tmp_path / "own", "count: 50")
    said: list[str] = []
    messages = SearchTarget(path, None, None, said.append).trial({})
    assert said == ["validation: the test net of stage 'validation'"]
    plan = read_plan(write(tmp_path / "trial", messages))
    (tested,) = data_params(plan.tests[0].param)
    assert (tested.first, tested.count, list(plan.solver.test_iter)) == (50, 40, [4])


def test_validation_records_that_are_trained_on_are_refused(examples: Path, tmp_path: Path) -> None:
    path = with_validation(examples, tmp_path / "own", "count: 51")
    with pytest.raises(SolverError, match="the validation samples are among the training"):
        SearchTarget(path, None, None, lambda _: None)


def test_a_net_without_records_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "d" type: "DummyData" top: "x" top: "y" '
        "dummy_data_param { shape { dim: 2 } } }"
        'layer { name: "loss" type: "EuclideanLoss" bottom: "x" bottom: "y" top: "loss" }'
    )
    (tmp_path / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 1'
    )
    with pytest.raises(CaffeKDError, match="has no layer of type Data in phase TRAIN"):
        SearchTarget(tmp_path / "solver.prototxt", None, None, lambda _: None)


def test_records_sorted_by_label_are_reported(examples: Path, tmp_path: Path) -> None:
    from caffe_kd.data.backends.idx import read_pair, write_idx

    names = [examples / f"train-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")]
    images, labels = read_pair(*names)
    order = labels.argsort(kind="stable")
    for name, values in zip(names, (images[order], labels[order]), strict=True):
        write_idx(tmp_path / name.name, values)
    for name in ("student_solver", "student_train_test"):
        content = (examples / f"{name}.prototxt").read_text()
        content = content.replace(examples.as_posix(), tmp_path.as_posix())
        (tmp_path / f"{name}.prototxt").write_text(content)
    said: list[str] = []
    target(tmp_path, "student_solver.prototxt", said)
    assert "has none of the labels 0, 1, 2, 3, 4, 5, 6, 7" in said[0]
