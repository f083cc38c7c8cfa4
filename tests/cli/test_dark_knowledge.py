from __future__ import annotations

from pathlib import Path

import pytest

from caffe_kd.cli import train
from caffe_kd.cli.dark_knowledge import main
from tests.cli.small import write_examples
from tests.dark_knowledge.nets import write_nets


def test_figures_are_drawn_for_a_solver_and_for_nets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_examples(tmp_path, iterations=6)
    for solver in ("teacher_solver", "kd_solver"):
        assert train.main(["-solver", f"{solver}.prototxt", "-no_progress"]) == 0
    capsys.readouterr()
    weights = "student_iter_6.caffemodel"
    flags = ["-solver", "kd_solver.prototxt", "-weights", weights, "-output", "a"]
    assert main([*flags, "-temperatures", "1,8"]) == 0
    out = capsys.readouterr().out
    assert "of 40 samples" in out and "they differ on" in out
    assert "at temperature 4:" in out
    assert {path.name for path in Path("a").iterdir()} >= {"samples.png", "similarity.png"}
    models = "teacher_train_test.prototxt,student_train_test.prototxt"
    both = f"teacher_iter_6.caffemodel,{weights}"
    assert main(["-model", models, "-weights", both, "-output", "b", "-iterations", "1"]) == 0
    assert "of 20 samples" in capsys.readouterr().out
    Path("names.txt").write_text("\n".join(f"digit {i}" for i in range(10)))
    one = ["-model", "teacher_train_test.prototxt", "-weights", "teacher_iter_6.caffemodel"]
    assert main([*one, "-labels", "names.txt", "-output", "c"]) == 0
    out = capsys.readouterr().out
    assert "student" not in out and "% of digit " in out
    assert {path.name for path in Path("c").iterdir()} == {"samples.png", "similarity.png"}


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["-solver", "a", "-model", "b"],
        ["-model", "a"],
        ["-solver", "a", "-temperatures", "1,x"],
        ["-solver", "a", "-temperatures", "0"],
        ["-solver", "a", "-iterations", "0"],
        ["-model", "a", "-weights", "b", "-teacher", "c"],
    ],
)
def test_usage_errors_have_status_2(flags: list[str]) -> None:
    assert main(flags) == 2


def test_teacher_that_is_drawn_is_named_where_there_are_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_nets(tmp_path)
    Path("distiller.prototxt").write_text(
        'layer { name: "kd" type: "DistillingLoss" bottom: "ip" bottom: "b/ip" top: "kd" }'
        'layer { name: "hint" type: "HintLoss" bottom: "ip" bottom: "a/ip" top: "hint" }'
    )
    teachers = "".join(
        f'teacher {{ name: "{name}" net: "net.prototxt" weights: "teacher.caffemodel" }}'
        for name in "ab"
    )
    Path("solver.prototxt").write_text(
        'net: "net.prototxt" distiller_net: "distiller.prototxt" max_iter: 1 base_lr: 1 '
        f'lr_policy: "fixed" {teachers}'
    )
    flags = ["-solver", "solver.prototxt", "-weights", "student.caffemodel"]
    assert main([*flags, "-teacher", "b"]) == 0
    out = capsys.readouterr().out
    assert "teacher 'b'; with -teacher: a" in out and "right on 4 of 5 samples" in out
    assert main([*flags, "-teacher", "c"]) == 2
