from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from caffe_kd.cli.guard import guarded
from caffe_kd.core.errors import Stopped, UsageError
from caffe_kd.core.files import replacing

ROOT = Path(__file__).parents[2]


def failing(error: BaseException) -> int:
    """Run a command that raises ``error``; return its exit status."""

    @guarded
    def command(_argv: Sequence[str] | None) -> int:
        raise error

    status: int = command([])
    return status


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UsageError("-x is wrong"), 2, "error: -x is wrong"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Stopped("to go on: again"), 130, "to go on: again"),
        (Stopped("to go on: again", signal.SIGTERM), 143, "to go on: again"),
        (OSError(28, "No space left", "a/b"), 1, "error: a/b: No space left"),
        (FileNotFoundError(2, "No such file"), 1, "error: the working folder is no longer there"),
        (MemoryError(), 1, "error: not enough memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: 9"),
            1,
            "error: not enough memory",
        ),
        (RuntimeError("CUDA out of memory. Tried"), 1, "error: not enough memory"),
        (UnicodeEncodeError("utf-8", "a\udcff", 1, 2, "no"), 1, "error: 'a\\udcff' is not UTF-8"),
    ],
)
def test_mistakes_and_limits_are_reported_in_one_line(
    capsys: pytest.CaptureFixture[str], error: BaseException, status: int, message: str
) -> None:
    assert failing(error) == status
    err = capsys.readouterr().err
    assert err.startswith(message) and err.count("\n") == 1


def test_fault_of_ours_is_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        failing(RuntimeError("shapes"))


def test_ctrl_c_that_a_library_makes_another_error_of_is_still_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @guarded
    def command(_argv: Sequence[str] | None) -> int:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("initialization failed") from None
        return 0

    before = signal.getsignal(signal.SIGINT)
    assert command([]) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1"])
def test_command_that_a_signal_ends_clears_up_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    number = getattr(signal, name)

    @guarded
    def command(_argv: Sequence[str] | None) -> int:
        with replacing(tmp_path / "result"):
            os.kill(os.getpid(), number)
            while True:  # until Python has noticed
                time.sleep(0.01)

    assert command([]) == 128 + number
    err = capsys.readouterr().err
    assert err.startswith("terminated") and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_signal_that_is_ignored_stays_so() -> None:
    @guarded
    def command(_argv: Sequence[str] | None) -> int:
        os.kill(os.getpid(), signal.SIGHUP)
        return 0

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it
    try:
        assert command([]) == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(os.name == "nt", reason="pipes close otherwise there")
@pytest.mark.parametrize("command", [["-h"], ["convert_mnist_data", "-h"]])
def test_reader_that_went_away_is_not_reported_as_an_error(command: list[str]) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(
        [sys.executable, "-m", "caffe_kd", *command],
        cwd=ROOT,
        stdout=writes,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writes)
    assert done.stderr == ""
