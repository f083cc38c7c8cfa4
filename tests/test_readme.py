"""Every command the READMEs show, run in their order on small digits."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from caffe_kd.cli import formats, layers
from caffe_kd.layers import layer_types

ROOT = Path(__file__).parents[1]
READMES = ["README.md", "README.zh-CN.md"]
# Run elsewhere: the quick start by test_quickstart.py, the tests by whoever runs this.
ELSEWHERE = ("bash tools/quickstart.sh", "bash tools/test.sh", "bash tools/check.sh")
ITERATIONS = 12


def commands(name: str, migration: bool = True) -> list[str]:
    """Return the lines of the shell blocks of a README, with those of its migration or without."""
    text = (ROOT / name).read_text(encoding="utf-8")
    if not migration:  # test_migration.py runs them
        text = re.sub(r"## Migrating a legacy model\n.*?(?=\n## )", "", text, flags=re.DOTALL)
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project whose examples train for a few iterations on small digits."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("caffe_kd", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "prototxt", folder / "prototxt")
    for path in (folder / "prototxt").rglob("*.prototxt"):
        path.write_text(_shortened(path.read_text(encoding="utf-8")), encoding="utf-8")
    return folder


def _shortened(text: str) -> str:
    text = re.sub(r"max_iter: \d+", f"max_iter: {ITERATIONS}", text)
    text = re.sub(r"_iter_\d+", f"_iter_{ITERATIONS}", text)
    text = re.sub(r"test_iter: \d+", "test_iter: 2", text)
    text = re.sub(r"test_interval: \d+", "test_interval: 6", text)
    return re.sub(r"batch_size: \d+", "batch_size: 16", text)


def test_both_readmes_show_the_same_commands() -> None:
    assert commands(READMES[0]) == commands(READMES[1])


@pytest.mark.parametrize("name", READMES)
def test_readme_has_no_placeholder(name: str) -> None:
    assert not re.findall(r"@[A-Z]+@", (ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", READMES)
def test_tables_of_the_readme_are_those_the_program_prints(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for table in (layers.brief(layer_types().values()), formats.table()):
        assert "\n\n" + "\n".join(table) + "\n\n" in text


@pytest.mark.parametrize("name", READMES)
def test_weights_that_the_readme_names_are_those_its_solvers_write(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    named = set(re.findall(r"output/(?!migrate)\S+?_iter_\d+\.caffemodel", text))
    written = set()
    for path in (ROOT / "prototxt").rglob("*_solver.prototxt"):
        solver = path.read_text(encoding="utf-8")
        prefix = re.search(r'snapshot_prefix: "(.*?)"', solver)
        count = re.search(r"max_iter: (\d+)", solver)
        if prefix and count:
            written.add(f"{prefix[1]}_iter_{count[1]}.caffemodel")
    assert named
    assert named <= written


@pytest.mark.parametrize("name", READMES)
def test_catalogue_of_the_readme_names_every_example(name: str) -> None:
    rows = [
        line
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and line.count(" | ") == 5
    ]
    named = {cell.strip("` ") for row in rows for cell in [row.split(" | ")[2]] if "`" in cell}
    folder = ROOT / "prototxt" / "distillation"
    solvers = {path.name.removesuffix("_solver.prototxt") for path in folder.glob("*_solver.*")}
    assert named == {stem for stem in solvers if not stem.endswith("teacher")} | {
        "mean_teacher", "onnx_teacher",
    }  # fmt: skip


def test_every_command_of_the_readme_runs(project: Path) -> None:
    # The first of them, get_mnist, makes scikit-learn's digits, on which the others train.
    for command in commands(READMES[0], migration=False):
        if command in ELSEWHERE:
            continue
        words = re.sub(r"_iter_\d+", f"_iter_{ITERATIONS}", command)
        words = re.sub(r"^python ", f"{sys.executable} ", words)
        words = re.sub(r"^caffe_kd ", f"{sys.executable} -m caffe_kd ", words)
        if "get_mnist.py" in words:
            words += " -no_download"
        done = subprocess.run(
            words, shell=True, cwd=project, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
