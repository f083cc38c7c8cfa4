"""Every command the READMEs show, run in their order on small digits."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
def test_readme_lists_the_layer_types_there_are(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    (listed,) = re.findall(
        r"^(?:The layer types: |层类型：)(.*?)\n\n", text, re.DOTALL | re.MULTILINE
    )
    assert sorted(re.findall(r"[A-Z]\w*", listed, re.ASCII)) == list(layer_types())


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
