"""The comparison of the distillation methods in small."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from caffe_kd.cli.methods import main
from caffe_kd.core import examples
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.recipes.digit_runs import Score
from caffe_kd.recipes.methods import ALONE, Row, csv_rows, methods, table
from caffe_kd.recipes.run_files import results_folder
from caffe_kd.recipes.runner import as_csv
from caffe_kd.solver.plan import read_plan
from tests.commands import help_without_torch, run_main

TOOL = Path(__file__).parents[2] / "tools" / "experiments" / "methods.py"
SOME = ("ensemble", "kd", "mean_teacher", "stages")
ITERATIONS = 8


def command(small: Path, folder: Path, *more: str) -> list[str]:
    words = ["-no_download", "-dir", str(small), "-output", str(folder), "-only", ",".join(SOME)]
    return [*words, "-iterations", str(ITERATIONS), *more]


@pytest.fixture(scope="module")
def outcome(small: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("methods")
    status, printed = run_main(main, *command(small, folder, "-seeds", "2"))
    assert status == 0, printed
    return folder, printed


def test_all_methods_and_the_student_alone_are_reported(outcome: tuple[Path, str]) -> None:
    folder, printed = outcome
    lines = (folder / "table.txt").read_text().splitlines()
    assert all(line in printed for line in lines)
    for name in SOME:
        (line,) = (x for x in lines if x.startswith(f"{name} "))
        assert re.search(r"\d ± \d+\.\d\d +[+-]\d+\.\d\d +2 ", line), line
    rows = list(csv.DictReader((folder / "results.csv").open()))
    counts = {name: sum(row["method"] == name for row in rows) for name in (*SOME, ALONE)}
    assert counts == dict.fromkeys((*SOME, ALONE), 2)
    assert (folder / "methods.png").read_bytes().startswith(b"\x89PNG")


def test_one_line_is_printed_for_each_run(outcome: tuple[Path, str]) -> None:
    lines = outcome[1].splitlines()
    runs = [x for x in lines if re.match(r"run \d+ of 12: \w+: \d+ s", x)]
    assert len(runs) == 12 and len(lines) < 30
    assert all("left" in x for x in runs[:-1])


def test_every_run_is_a_solver_with_the_same_budget(outcome: tuple[Path, str]) -> None:
    seeds = {}
    for path in outcome[0].glob("*/solver.prototxt"):
        plan = read_plan(path)
        assert plan.solver.max_iter == ITERATIONS
        seeds[path.parent.name] = plan.solver.random_seed
        weights = Path(f"{plan.solver.snapshot_prefix}_iter_{ITERATIONS}.caffemodel")
        assert weights.is_file()
        teachers = {teacher.path.resolve().parent.name for teacher in plan.teachers}
        wanted = {"ensemble": {"teacher", "second_teacher"}, "kd": {"teacher"}}
        method = path.parent.name.rpartition("_")[0]
        assert teachers == wanted.get(method, teachers)
    assert {seeds[f"{name}_{s}"] - s for name in (*SOME, ALONE) for s in (1, 2)} == {0}


def test_schedules_keep_their_place_in_a_shorter_training(outcome: tuple[Path, str]) -> None:
    def iterations(net: Path) -> list[int]:
        layers = text.read(net, pb.NetParameter()).layer
        return [p.iter for x in layers for p in x.loss_weight_schedule.point]

    here = iterations(outcome[0] / "stages_1" / "distiller.prototxt")
    full = iterations(examples.folder("distillation") / "stages_distiller.prototxt")
    assert len(here) == len(full) > 0
    assert all(abs(a - b * ITERATIONS / 938) <= 1 for a, b in zip(here, full, strict=True))


def test_what_is_done_is_not_done_again(small: Path, outcome: tuple[Path, str]) -> None:
    folder, printed = outcome
    logs = {p: p.stat().st_mtime_ns for p in folder.glob("*/train.log")}
    status, again = run_main(main, *command(small, folder, "-seeds", "2"))
    assert status == 0
    assert "12 of 12 runs are already done" in again
    assert {p: p.stat().st_mtime_ns for p in folder.glob("*/train.log")} == logs
    assert [x for x in again.splitlines() if x.startswith("kd ")] == [
        x for x in printed.splitlines() if x.startswith("kd ")
    ]


def test_every_example_of_the_pair_is_a_method() -> None:
    known = methods()
    assert {"kd", "fitnet", "at", "rkd", "dkd", "ensemble", "mean_teacher"} <= set(known)
    assert known["rkd"] == "RelationalDistanceLoss, RelationalAngleLoss"
    assert known["label_smoothing"] == "SoftmaxWithLoss"  # which needs no teacher
    # Other nets or data: their accuracies say nothing beside the others'.
    assert not {"recurrent", "continual", "class_map", "dml", "teacher"} & set(known)


def test_table_has_mean_spread_and_the_difference_to_the_student_alone() -> None:
    def result(errors: int) -> Score:
        return Score([errors], [100], 2.0)

    rows = [
        Row("teacher", "the labels", [result(1)]),
        Row("kd", "DistillingLoss", [result(2), result(4)]),
        Row("alone", "the labels", [result(10), result(10)]),
    ]
    head, teacher, kd, alone = (line.split() for line in table(rows).splitlines())
    assert head[:3] == ["method", "accuracy", "%"]
    assert teacher[:2] == ["teacher", "99.00"]
    assert kd == ["kd", "97.00", "±", "1.41", "+7.00", "2", "2", "DistillingLoss"]
    assert alone[:4] == ["alone", "90.00", "±", "0.00"]
    assert as_csv(csv_rows(rows)).splitlines()[3] == "kd,DistillingLoss,2,4,100,96.0000,2.0"


def test_students_see_fewer_digits_where_asked_and_teachers_all(
    small: Path, tmp_path: Path
) -> None:
    few = ["-no_download", "-dir", str(small), "-output", str(tmp_path), "-only", "kd"]
    status, _ = run_main(main, *few, "-iterations", "2", "-seeds", "1", "-digits", "50")
    assert status == 0

    def counts(name: str) -> list[int]:
        layers = text.read(tmp_path / name / "net.prototxt", pb.NetParameter()).layer
        return [x.data_param.count for x in layers if x.type == "Data"]

    assert counts("kd_1") == counts("alone_1") == [50, 0]
    assert counts("teacher") == [0, 0]  # no count: all
    assert run_main(main, *few, "-digits", "5000")[0] == 2


def test_unknown_method_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-only", "fitnets"]) == 2
    assert "Did you mean 'fitnet'?" in capsys.readouterr().err


def test_help_does_not_import_torch(tmp_path: Path) -> None:
    assert "methods.py [FLAGS]" in help_without_torch(TOOL, tmp_path)


@pytest.mark.parametrize("name", ["methods", "hinton_mnist"])
def test_quick_results_never_take_the_place_of_full_ones(name: str) -> None:
    folders = [results_folder(name, k, q) for k in ("MNIST", "digits") for q in (False, True)]
    assert folders[0] == f"output/experiments/{name}"
    assert len(set(folders)) == 4
