from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from caffe_kd.cli.main import main
from caffe_kd.core.errors import DataError
from caffe_kd.fuzz import campaign
from caffe_kd.fuzz.campaign import FAULTS, Campaign
from caffe_kd.fuzz.kinds import Kind, kinds

GOLDEN = Path(__file__).parents[1] / "golden"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are measured by /proc")


@pytest.mark.parametrize("kind", kinds(GOLDEN, main), ids=lambda kind: kind.name)
def test_damaged_files_of_each_kind_are_read_or_refused(kind: Kind, tmp_path: Path) -> None:
    run = Campaign([kind], 0, tmp_path)
    for verdict in run.run(kind, range(12)):
        assert verdict.verdict not in FAULTS, f"{verdict.file}: {verdict.message}"


def planted(read: Callable[[Path], object]) -> Kind:
    def seeds(folder: Path) -> list[Path]:
        path = folder / "good"
        path.write_text("good\n" * 20)
        return [path]

    def guarded(path: Path) -> None:
        if "read-" not in path.name:
            read(path)

    return Kind("planted", seeds, guarded, ".txt")


def crash(_path: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def grow(_path: Path) -> None:
    bytearray(os.urandom(1 << 20) * 100)


def refuse(_path: Path) -> None:
    raise DataError("it is damaged", "file")


def speak_in_lines(_path: Path) -> None:
    error = DataError("x")
    error.args = ("two\nlines",)
    raise error


@pytest.mark.parametrize(
    ("read", "verdict"),
    [
        (lambda path: None, "fine"),
        (refuse, "error"),
        (lambda path: {}["absent"], "TRACEBACK"),
        (crash, "CRASH"),
        (grow, "MEMORY"),
        (speak_in_lines, "PRINTED"),
        (lambda path: time.sleep(30), "HANG"),
    ],
)
def test_each_way_to_end_has_its_verdict(
    read: Callable[[Path], object],
    verdict: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if verdict == "HANG":
        monkeypatch.setattr(campaign, "MOST_SECONDS", 2.0)
    kind = planted(read)
    run = Campaign([kind], 3, tmp_path)
    found = list(run.run(kind, range(5, 8)))
    assert [(f.number, f.verdict) for f in found] == [(n, verdict) for n in (5, 6, 7)]
    for one in found:
        assert (one.file is not None) == (verdict in FAULTS)
        if one.file:
            again = run.make(kind, one.number, tmp_path)
            assert one.file.read_bytes() == again.read_bytes()


def test_seed_and_number_decide_the_damage(tmp_path: Path) -> None:
    kind = planted(refuse)
    inputs = set()
    for seed in (1, 2):
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir(exist_ok=True)
            run = Campaign([kind], seed, tmp_path / folder)
            inputs.add(run.make(kind, 4, tmp_path / folder).read_bytes())
    assert len(inputs) == 2


def test_command_counts_and_exits_with_1_where_a_fault_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["-count", "4", "-golden", str(GOLDEN), "-output", str(tmp_path)]
    assert main(["fuzz", *flags, "-only", "idx"]) == 0
    assert "all 4" in capsys.readouterr().out
    kind = planted(lambda path: 1 / 0)
    monkeypatch.setattr("caffe_kd.fuzz.kinds.kinds", lambda golden, run: [kind])
    assert main(["fuzz", *flags]) == 1
    out = capsys.readouterr().out
    assert "TRACEBACK planted 0: ZeroDivisionError" in out
    assert "repeat: caffe_kd fuzz -seed 0 -only planted -first 0 -count 1" in out
    assert main(["fuzz", *flags, "-only", "absent"]) == 2
