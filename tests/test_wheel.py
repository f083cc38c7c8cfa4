"""The package as it is published: built, installed elsewhere, and used from an empty folder."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

packaging_metadata = pytest.importorskip("packaging.metadata")
# Not imported: setuptools cannot be where its older self, distutils, has been already.
for name in ("pip", "setuptools"):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed", allow_module_level=True)

ROOT = Path(__file__).parents[1]
SOURCES = ("caffe_kd", "prototxt", "setup.py", "README.md", "LICENSE")
PIP = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]


def run(*command: str | Path, cwd: Path) -> str:
    """Run a program away from the checkout; return what it prints on stdout and stderr."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd, env=environment, text=True, encoding="utf-8", check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the sdist."""
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, folder)
    run(sys.executable, "setup.py", "-q", "sdist", cwd=folder)
    (path,) = (folder / "dist").iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel that is built from the sdist alone."""
    folder = tmp_path_factory.mktemp("wheel")
    words = ["wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder, archive]
    run(*PIP, *words, cwd=folder)
    (path,) = folder.iterdir()
    return path


class Installation:
    """The wheel in an environment of its own, and an empty folder to work in."""

    def __init__(self, wheel: Path, folder: Path) -> None:
        environment, self.folder = folder / "environment", folder / "empty"
        venv.create(environment, with_pip=False)
        self.folder.mkdir()
        self.bin = environment / ("Scripts" if os.name == "nt" else "bin")
        python = shutil.which("python", path=str(self.bin))
        install = ["--python", python, "install", "--no-deps", "--no-index", wheel]
        run(*PIP, *install, cwd=folder)
        (self.site,) = environment.rglob("site-packages")
        # What caffe_kd needs is taken from this environment.
        others = [path for path in sys.path if path.endswith("-packages")]
        (self.site / "others.pth").write_text("\n".join(others), encoding="utf-8")

    def __call__(self, line: str) -> str:
        """Run a command of caffe_kd in the folder; return what it prints."""
        program = shutil.which("caffe_kd", path=str(self.bin))
        assert program is not None
        return run(program, *line.split(), cwd=self.folder)


@pytest.fixture(scope="module")
def caffe_kd(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Return an installation whose folder has the small digits."""
    installation = Installation(wheel, tmp_path_factory.mktemp("installed"))
    installation("get_mnist -no_download")
    return installation


def packaged_files() -> set[str]:
    """Return what belongs into a wheel: the package without its documents, and the examples."""
    files = [p for name in ("caffe_kd", "prototxt") for p in (ROOT / name).rglob("*.*")]
    names = {p.relative_to(ROOT).as_posix() for p in files if p.suffix not in (".pyc", ".png")}
    examples = {f"caffe_kd/{name}" for name in names if name.startswith("prototxt/")}
    return examples | {n for n in names if n.startswith("caffe_kd/") and not n.endswith(".md")}


def test_wheel_has_the_package_and_the_examples(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as unpacked:
        names = {n for n in unpacked.namelist() if ".dist-info/" not in n}
    assert "caffe_kd/prototxt/mnist/kd_solver.prototxt" in names
    assert names == packaged_files()


def test_metadata_is_what_a_package_index_takes(archive: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as unpacked:
        (name,) = (n for n in unpacked.namelist() if n.endswith(".dist-info/METADATA"))
        texts = [unpacked.read(name)]
    with tarfile.open(archive) as packed:
        (member,) = (m for m in packed.getmembers() if m.name.count("/") == 1
                     and m.name.endswith("/PKG-INFO"))  # fmt: skip
        file = packed.extractfile(member)
        assert file is not None
        texts.append(file.read())
    for text in texts:
        metadata = packaging_metadata.Metadata.from_email(text, validate=True)
        assert metadata.description_content_type == "text/markdown"
        assert metadata.description.startswith("# caffe_kd\n")
        # Its files are not there: a relative link leads nowhere.
        assert "](" not in metadata.description.replace("](http", "")
        assert metadata.summary and metadata.keywords and metadata.classifiers
        assert str(metadata.requires_python) == ">=3.10"
        assert "MIT" in (metadata.license, metadata.license_expression)
        assert not metadata.project_urls


def test_quick_start_runs_where_it_is_installed(caffe_kd: Installation) -> None:
    printed = caffe_kd("quickstart -passes 1 -no_download")
    assert "student distilled" in printed
    for name in ("student.onnx", "deploy.prototxt", "training.png"):
        assert (caffe_kd.folder / "output" / "quickstart" / name).is_file()


def test_packaged_examples_train_in_an_empty_folder(caffe_kd: Installation) -> None:
    folder = "distillation"
    teacher = f"output/{folder}/teacher_iter_6.caffemodel"
    for job, more in (("teacher", ""), ("kd", f"-teacher_weights {teacher}"), ("byot", "")):
        path = f"prototxt/{folder}/{job}_solver.prototxt"
        printed = caffe_kd(f"train -solver {path} -max_iter 6 {more}")
        example = caffe_kd.site / "caffe_kd" / path
        assert f"note: {path} is not here: using the example {example}\n" in printed
        assert (caffe_kd.folder / f"output/{folder}/{job}_iter_6.caffemodel").is_file()
    assert not (caffe_kd.folder / "prototxt").exists()
    assert not list((caffe_kd.site / "caffe_kd" / "prototxt").rglob("*.caffemodel"))


def test_example_is_copied_and_trained_where_it_is_installed(caffe_kd: Installation) -> None:
    assert "mlp_teacher" in caffe_kd("examples")
    printed = caffe_kd("examples mnist/mlp_teacher -output own")
    solver = "own/mnist/mlp_teacher_solver.prototxt"
    assert f"wrote {Path(solver)}" in printed
    assert "using the example" not in caffe_kd(f"train -solver {solver} -max_iter 6")
    assert (caffe_kd.folder / "output" / "mnist" / "mlp_teacher_iter_6.caffemodel").is_file()
