"""Measures how much memory reading a file takes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from caffe_kd.core.errors import CaffeKDError
from caffe_kd.core.memory import MOST_GROWTH, ROOM_BYTES

needs_proc = pytest.mark.skipif(
    not (sys.platform == "linux" and os.access("/proc/self/clear_refs", os.W_OK)),
    reason="the peak of a process's memory is read from Linux's /proc",
)


def check_growth(read: Callable[[Path], object], path: Path) -> str:
    """Read a file in a process of its own, and hold its memory against the rule for files.

    Returns:
        The message of the error it ended with, empty if it was read.
    """
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:  # no way out of here but _exit: the rest belongs to the parent
        try:
            os.close(receiving)
            signal.alarm(120)
            before = _peak_bytes()
            message = ""
            try:
                read(path)
            except CaffeKDError as error:
                message = str(error)
            os.write(sending, f"{_peak_bytes(reset=False) - before} {message}".encode())
        finally:
            os._exit(0)
    os.close(sending)
    with open(receiving, "rb") as pipe:
        report = pipe.read().decode()
    os.waitpid(child, 0)
    assert report, "the process that read it died"
    grown, _, message = report.partition(" ")
    size = path.stat().st_size
    assert int(grown) <= MOST_GROWTH * size + ROOM_BYTES, f"{size} bytes took {grown}: {message}"
    return message


def _peak_bytes(reset: bool = True) -> int:
    """Return this process's greatest memory; the reset makes today's the greatest so far."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10
