"""The documents: their commands run, their samples are read, their links lead somewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from caffe_kd.core.errors import CaffeKDError
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from tests.documents import (
    GUIDES,
    IN_TWO_LANGUAGES,
    READING_ORDER,
    ROOT,
    anchors,
    blocks,
    chinese,
    commands,
    documents,
    links,
    read,
)
from tests.test_structure import FLOORS

README_BYTES = 9 * 1024
IMAGE_BYTES = 100_000
# Installing, and what needs Docker, is not for a test; the quick start has test_quickstart.py, the
# guides test_migration.py, the tests and checks whoever runs this.
ELSEWHERE = ("python -m venv", ". .venv", "pip install", "docker ", "caffe_kd quickstart", "bash ")
ITERATIONS = 12


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


def _shortened(prototxt: str) -> str:
    prototxt = re.sub(r"max_iter: \d+", f"max_iter: {ITERATIONS}", prototxt)
    prototxt = re.sub(r"_iter_\d+", f"_iter_{ITERATIONS}", prototxt)
    prototxt = re.sub(r"test_iter: \d+", "test_iter: 2", prototxt)
    prototxt = re.sub(r"test_interval: \d+", "test_interval: 6", prototxt)
    return re.sub(r"batch_size: \d+", "batch_size: 16", prototxt)


def test_every_document_is_in_the_reading_order() -> None:
    translated = {chinese(name) for name in IN_TWO_LANGUAGES}
    assert set(documents()) == {*READING_ORDER, *GUIDES} | translated


@pytest.mark.parametrize("name", IN_TWO_LANGUAGES)
def test_both_languages_show_the_same_commands_and_samples(name: str) -> None:
    for language in ("sh", "protobuf", "python", "text"):
        assert blocks(name, language) == blocks(chinese(name), language)


@pytest.mark.parametrize("name", ["README.md", chinese("README.md")])
def test_readme_is_short_and_has_a_small_image(name: str) -> None:
    assert (ROOT / name).stat().st_size <= README_BYTES
    (image,) = (ROOT / link for link in links(name) if link.endswith(".png"))
    assert image.stat().st_size < IMAGE_BYTES


@pytest.mark.parametrize("name", documents())
def test_links_lead_to_files_and_headings(name: str) -> None:
    folder = (ROOT / name).parent
    for link in links(name):
        path, _, anchor = link.partition("#")
        target = folder / path if path else ROOT / name
        assert target.exists(), f"{name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{name}: {link}"


@pytest.mark.parametrize("name", documents())
def test_document_has_no_placeholder(name: str) -> None:
    assert not re.findall(r"@[A-Z]+@", read(name))


@pytest.mark.parametrize("name", [n for n in documents() if blocks(n, "protobuf")])
def test_samples_are_prototxt(name: str, tmp_path: Path) -> None:
    sample = tmp_path / "sample.prototxt"
    for block in blocks(name, "protobuf"):
        sample.write_text(block, encoding="utf-8")
        try:
            text.read(sample, pb.SolverParameter())
        except CaffeKDError:
            text.read(sample, pb.NetParameter())


@pytest.mark.parametrize("name", documents())
def test_weights_that_a_document_names_are_those_its_solvers_write(name: str) -> None:
    named = set(re.findall(r"output/(?!migrate)\S+?_iter_\d+\.caffemodel", read(name)))
    written = set()
    for path in (ROOT / "prototxt").rglob("*_solver.prototxt"):
        solver = path.read_text(encoding="utf-8")
        prefix = re.search(r'snapshot_prefix: "(.*?)"', solver)
        count = re.search(r"max_iter: (\d+)", solver)
        if prefix and count:
            written.add(f"{prefix[1]}_iter_{count[1]}.caffemodel")
    assert named <= written


def test_floors_are_drawn_as_they_are_tested() -> None:
    rows = re.findall(r"^\| \d+ \| (.*?) \|", read("caffe_kd/README.md"), re.MULTILINE)
    assert [sorted(re.findall(r"`(\w+)`", row)) for row in rows] == [sorted(f) for f in FLOORS]


def test_catalogue_names_every_example() -> None:
    lines = read("prototxt/distillation/README.md").splitlines()
    rows = [line for line in lines if line.startswith("| ") and line.count(" | ") == 5]
    named = {cell.strip("` ") for row in rows for cell in [row.split(" | ")[2]] if "`" in cell}
    folder = ROOT / "prototxt" / "distillation"
    solvers = {path.name.removesuffix("_solver.prototxt") for path in folder.glob("*_solver.*")}
    assert named == {stem for stem in solvers if not stem.endswith("teacher")} | {
        "mean_teacher", "onnx_teacher",
    }  # fmt: skip


def test_every_command_of_the_documents_runs(project: Path) -> None:
    # The first of them, get_mnist, makes scikit-learn's digits, on which the others train.
    in_guides = {command for name in GUIDES for command in commands(name)}
    done = set()
    for name in READING_ORDER:
        for command in commands(name):
            is_new = command not in done and (gets_data(command) or command not in in_guides)
            if is_new and not command.startswith(ELSEWHERE):
                _run(command, name, project)
                done.add(command)
    assert done


def gets_data(command: str) -> bool:
    return "get_mnist" in command or "get_cifar10" in command


def _run(command: str, document: str, project: Path) -> None:
    words = re.sub(r"_iter_\d+", f"_iter_{ITERATIONS}", command)
    words = re.sub(r"^python ", f"{sys.executable} ", words)
    words = re.sub(r"^caffe_kd ", f"{sys.executable} -m caffe_kd ", words)
    if gets_data(words):
        words += " -no_download"
    result = subprocess.run(
        words, shell=True, cwd=project, capture_output=True, text=True, check=False
    )
    printed = f"{result.stdout[-2000:]}\n{result.stderr[-2000:]}"
    assert result.returncode == 0, f"{document}: {command}\n{printed}"
