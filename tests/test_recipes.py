"""The recipes of CONTRIBUTING.md, followed word for word in a copy of the project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import ROOT, read

STEP = re.compile(
    r"^(?:New file|In) `(?P<file>[^`]+)`"
    r"(?:, (?P<where>after|before) the line `(?P<line>[^`]+)`)?:\n"
    r"\n```\w+\n(?P<text>.*?)```$",
    re.MULTILINE | re.DOTALL,
)
# Recipe: the type or name it adds, and the tests that hold of all of its kind.
_LAYERS = [f"tests/layers/test_{name}.py" for name in ("samples", "base", "formula")]
RECIPES = {
    "A layer with a setting": ("HardSigmoid", [*_LAYERS, "tests/export"]),
    "A loss with settings": ("HuberLoss", _LAYERS),
    "A solver type": ("Lion", []),
    "A backend of data layers": ("npz", ["tests/data/test_backends.py"]),
    "A command": ("count_samples", ["tests/cli/test_main.py", "tests/test_tools.py"]),
}
# Tests of a whole kind that have no case for each of it.
OF_A_KIND = (
    "every_layer_type_has_a_test",
    "emitter_or_a_reason",
    "has_a_case_or_is_run_by_its_sample",
)
FILES = 2  # that a recipe touches, its test included


def steps(title: str) -> list[re.Match[str]]:
    section = re.search(
        rf"^## {re.escape(title)}\n(.*?)(?=^## )", read(".github/CONTRIBUTING.md"), re.M | re.S
    )
    assert section is not None, f"CONTRIBUTING.md has no section {title}"
    return list(STEP.finditer(section[1]))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("caffe_kd", "tests", "prototxt", "tools"):
        ignored = shutil.ignore_patterns("__pycache__", "golden")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    shutil.copy(ROOT / ".pytest.ini", tmp_path)
    return tmp_path


def follow(step: re.Match[str], project: Path) -> None:
    path = project / step["file"]
    if step["line"] is None:
        assert not path.exists(), f"{step['file']} is there already"
        path.write_text(step["text"], encoding="utf-8")
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    assert lines.count(f"{step['line']}\n") == 1, f"{step['file']}: {step['line']}"
    at = lines.index(f"{step['line']}\n") + (step["where"] == "after")
    apart = "\n\n" if step["text"].startswith("class ") else ""  # as style has it
    path.write_text("".join([*lines[:at], step["text"], apart, *lines[at:]]), encoding="utf-8")


@pytest.mark.parametrize("title", RECIPES)
def test_recipe_can_be_followed_word_for_word(title: str, project: Path) -> None:
    name, shared = RECIPES[title]
    touched = {step["file"] for step in steps(title)}
    assert len(touched) == FILES
    for step in steps(title):
        follow(step, project)
    own = [file for file in touched if file.startswith("tests/")]
    chosen = [name, *OF_A_KIND, *(Path(file).stem for file in own)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", " or ".join(chosen),
         *own, *shared],
        cwd=project, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(project)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"\d+ passed|100%", done.stdout)
