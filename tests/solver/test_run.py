"""One training from its plan to its end: where its log lines go, and who hears of an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_kd.core.errors import CaffeKDError
from caffe_kd.solver.callback import Callback
from caffe_kd.solver.plan import read_plan
from caffe_kd.solver.run import RunOptions, train
from caffe_kd.solver.solver import Solver

from .training import SETTINGS, STUDENT, write_rows


class Iterations(Callback):
    def __init__(self) -> None:
        self.seen: list[int] = []

    def after_update(self, solver: Solver) -> None:
        self.seen.append(solver.iter)


class Failing(Callback):
    def before_update(self, solver: Solver) -> None:
        raise CaffeKDError("too bad")


def _plan(folder: Path) -> Path:
    write_rows(folder)
    (folder / "net.prototxt").write_text(STUDENT)
    path = folder / "solver.prototxt"
    path.write_text(SETTINGS + "max_iter: 3")
    return path


def test_quiet_run_has_its_lines_in_the_file_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, log, iterations = read_plan(_plan(tmp_path)), tmp_path / "run.log", Iterations()
    train(plan, RunOptions(log=log, quiet=True, callbacks=[iterations]))
    assert iterations.seen == [0, 1, 2]
    assert capsys.readouterr() == ("", "")
    assert log.read_text().count("Optimization Done.") == 2
    train(plan, RunOptions(log=log))
    assert "Optimization Done." in capsys.readouterr().err


@pytest.mark.parametrize("quiet", [True, False])
def test_error_of_a_quiet_run_is_left_to_the_caller(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], quiet: bool
) -> None:
    plan, log = read_plan(_plan(tmp_path)), tmp_path / "run.log"
    with pytest.raises(CaffeKDError) as raised:
        train(plan, RunOptions(log=log, quiet=quiet, callbacks=[Failing()]))
    assert "too bad" in log.read_text()
    assert ("too bad" in capsys.readouterr().err) is not quiet
    assert raised.value.logged is not quiet
