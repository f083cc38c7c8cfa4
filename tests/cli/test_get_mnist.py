from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from caffe_kd.cli.get_mnist import main

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "get_mnist.py"


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(TOOL), *arguments]  # -I: as without installation
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_tool_works_from_a_checkout_and_prints_the_folder(tmp_path: Path) -> None:
    done = run("-dir", "here", "-no_download", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "digits: here"
    assert "not MNIST" in done.stdout
    assert len(list((tmp_path / "here").iterdir())) == 5


@pytest.mark.parametrize("spelling", [["-dir=x"], ["--dir=x"], ["--dir", "x"]])
def test_flags_in_either_spelling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*spelling, "--no_download"]) == 0
    assert len(list((tmp_path / "x").iterdir())) == 5


def test_abbreviated_flag_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--no_down"]) == 2
    assert "--no_down" in capsys.readouterr().err


def test_failure_is_one_line_without_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("-dir", "file/inside", "-no_download", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: file/inside")
    assert "Traceback" not in done.stderr


def test_help_does_not_import_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from caffe_kd.cli import get_mnist, convert_mnist_data\n"
        "for tool in (get_mnist, convert_mnist_data):\n"
        "    try: tool.main(['-h'])\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
