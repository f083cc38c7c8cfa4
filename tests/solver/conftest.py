from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.solver.training import DISTILLER, STUDENT, write_rows, write_teacher


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nets this small only lose by a second thread, most of all on a busy machine.

    Processes that a test starts have one too: with another number the last bits differ.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the student, its rows, the teacher and the distiller."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path)
    (tmp_path / "net.prototxt").write_text(STUDENT)
    (tmp_path / "distiller.prototxt").write_text(DISTILLER)
    write_teacher(tmp_path)
    return tmp_path
