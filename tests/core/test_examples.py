"""The examples of tools/examples, run as users run them."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "tools" / "examples"


def run(name: str, folder: Path) -> str:
    command = [sys.executable, str(EXAMPLES / name), str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the first example has left: the others use its weights."""
    folder = tmp_path_factory.mktemp("digits")
    (folder / "printed.txt").write_text(run("step_solver.py", folder))
    return folder


def test_solver_is_stepped_and_its_loss_drawn(folder: Path) -> None:
    printed = (folder / "printed.txt").read_text()
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", printed)]
    assert len(losses) == 10
    assert losses[-1] < 0.2 * losses[0]
    assert "iteration 160, lr 0.005" in printed
    assert float(printed.split()[-1]) > 0.95
    with Image.open(folder / "loss.png") as image:
        assert image.format == "PNG"


def test_surgery_makes_a_net_that_reads_a_row_of_digits(folder: Path) -> None:
    are, seen = run("net_surgery.py", folder).splitlines()
    assert are.split()[-5:] == ["0", "1", "2", "3", "4"]
    assert seen.split()[-5:] == ["0", "1", "2", "3", "4"]


def test_features_are_extracted(folder: Path) -> None:
    printed = run("extract_features.py", folder)
    assert "1797 features of 32 numbers" in printed
    assert float(printed.split()[-1]) > 0.9
    assert np.load(folder / "features.npy").shape == (1797, 32)


def test_dream_strengthens_the_activation(folder: Path) -> None:
    words = run("deep_dream.py", folder).split()
    assert float(words[-3]) > 1.5 * float(words[3])
    with Image.open(folder / "dream.png") as image:
        assert image.size == (512, 256)


def test_examples_train_the_net_themselves_where_there_is_none(tmp_path: Path) -> None:
    run("net_surgery.py", tmp_path)
    assert (tmp_path / "digits.caffemodel").is_file()


@pytest.mark.parametrize("name", ["step_solver", "net_surgery", "extract_features", "deep_dream"])
def test_help_describes_an_example_and_makes_nothing(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process: that each starts in one of its own is tested above."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(EXAMPLES / f"{name}.py"), "-h"])
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setitem(sys.modules, "digits", None)  # to be forgotten afterwards
    monkeypatch.delitem(sys.modules, "digits")
    with pytest.raises(SystemExit) as end:
        runpy.run_path(sys.argv[0], run_name="__main__")
    assert end.value.code == 0
    assert f"tools/examples/{name}.py [FOLDER]" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
