"""The scripts and the notebook of tools/, run as users run them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.small import write_examples
from tests.commands import help_without_torch

ROOT = Path(__file__).parents[1]
TOOLS = sorted([*(ROOT / "tools").glob("*.py"), *(ROOT / "tools" / "python").glob("*.py")])


@pytest.mark.parametrize("tool", TOOLS, ids=lambda path: path.name)
def test_every_tool_helps_from_any_folder_without_importing_torch(
    tool: Path, tmp_path: Path
) -> None:
    assert "usage:" in help_without_torch(tool, tmp_path)


def test_tools_are_five_lines_each() -> None:
    for tool in TOOLS:
        code = [x for x in tool.read_text().splitlines() if x.strip()]
        assert len(code) <= 5, (
            f"{tool.name} has {len(code)} lines: its code belongs in caffe_kd/cli"
        )


@pytest.mark.skipif(os.name != "posix", reason="a bash script")
def test_train_script_trains_the_teacher_first_where_there_is_none(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    shutil.copytree(ROOT / "caffe_kd", tmp_path / "caffe_kd")
    for name in ("setup.py",):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "prototxt" / "mnist").mkdir(parents=True)
    write_examples(tmp_path / "prototxt" / "mnist", iterations=2)
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    (tmp_path / "data" / "mnist" / "train-labels-idx1-ubyte").touch()
    # An environment that counts as installed, so that nothing is downloaded here.
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    stamp = subprocess.run(
        "cat setup.py tools/constraints.txt | cksum",
        shell=True, cwd=tmp_path, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    (tmp_path / ".venv" / ".installed-").write_text(stamp)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(tmp_path / "tools" / "train.sh"), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run("mnist", "kd")
    assert done.returncode == 0, done.stderr
    assert "training the teacher first" in done.stdout
    assert len(list((tmp_path / "logs").glob("mnist_teacher_*.log"))) == 1
    assert len(list((tmp_path / "logs").glob("mnist_kd_*.log"))) == 1
    assert (tmp_path / "prototxt" / "mnist" / "student_iter_2.caffemodel").is_file()
    again = run("mnist", "kd")
    assert "training the teacher first" not in again.stdout
    wrong = run("mnist", "dk")
    assert wrong.returncode == 2
    assert "there is no prototxt/mnist/dk_solver.prototxt" in wrong.stderr


@pytest.mark.skipif(os.name != "posix", reason="bash scripts")
@pytest.mark.parametrize("broken", ["", "ruff check .", "ruff format --check .", "mypy"])
def test_ci_installs_once_then_checks_and_tests(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEST_WORKERS", raising=False)
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    for name in ("env.sh", "check.sh", "test.sh", "constraints.txt"):
        (tmp_path / "tools").mkdir(exist_ok=True)
        shutil.copy(ROOT / "tools" / name, tmp_path / "tools")
    shutil.copy(ROOT / "setup.py", tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$@" >> ran\n[ "$*" != "-m {broken}" ]\n')
    python.chmod(0o755)

    def run() -> tuple[int, list[str]]:
        done = subprocess.run(["bash", ".ci/run"], cwd=tmp_path, check=False)
        return done.returncode, (tmp_path / "ran").read_text().splitlines()

    returncode, (pip, *ran) = run()
    assert pip.startswith("-m pip install")
    assert pip.endswith("-e .[check,test]")
    steps = ["-m ruff check .", "-m ruff format --check .", "-m mypy", "-m pytest -n 2"]
    assert ran == (steps[: steps.index(f"-m {broken}") + 1] if broken else steps)
    assert returncode == (1 if broken else 0)
    (tmp_path / "ran").unlink()
    assert run() == (returncode, ran)


@pytest.mark.parametrize("opened_in", [".", "tools"])
def test_notebook_draws_the_curves_of_logs(
    opened_in: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    (tmp_path / "logs").mkdir()
    log = "".join(
        f"I1121 10:00:{i:02d}.000000  7 solver.cpp:1] {text}\n"
        for i in range(20)
        for text in (
            f"Iteration {i * 10} (5 iter/s, 2s/10 iters), loss = {2 / (i + 1)}",
            f"Iteration {i * 10}, lr = 0.01",
            f"Iteration {i * 10}, Testing net (#0)",
            f"    Test net output #0: accuracy = {i / 20}",
        )
    )
    (tmp_path / "logs" / "run.log").write_text(log)
    (tmp_path / "tools").mkdir()
    monkeypatch.chdir(tmp_path / opened_in)
    notebook = json.loads((ROOT / "tools" / "plot_training.ipynb").read_text())
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert Path("training.png").read_bytes().startswith(b"\x89PNG")
    assert "run: iteration 190, test net 0: accuracy = 0.9500" in capsys.readouterr().out


def test_image_for_gpus_runs_the_quick_start_on_one() -> None:
    lines = (ROOT / "docker" / "Dockerfile.gpu").read_text().splitlines()
    (command,) = (line.removeprefix("CMD ") for line in lines if line.startswith("CMD "))
    assert json.loads(command) == ["bash", "tools/quickstart.sh", "-gpu", "0"]
