"""Where the logs of training commands go."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from caffe_kd.cli import train
from tests.cli.small import write_examples


def test_runs_that_start_in_one_second_have_a_log_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_examples(tmp_path)
    monkeypatch.chdir(tmp_path)
    strftime = time.strftime
    noon = time.struct_time((2026, 1, 1, 12, 0, 0, 3, 1, 0))
    monkeypatch.setattr(time, "strftime", lambda form, *_: strftime(form, noon))
    words = ["-solver", "student_solver.prototxt", "-max_iter", "1", "-no_progress"]
    assert train.main(words) == train.main(words) == 0
    logs = [p.read_text() for p in tmp_path.glob("student_alone_20260101-120000*.log")]
    assert len(logs) == 2
    assert all(log.count("Starting Optimization") == 1 for log in logs)
