"""pycaffe's log: Caffe's lines on stderr, from the level of GLOG_minloglevel on."""

from __future__ import annotations

import os
import sys
from types import FrameType

from ..logs.log import Log

_LEVELS = {"I": 0, "W": 1, "E": 2}


class LevelLog(Log):
    """A log that leaves out the lines below a level, on what is ``sys.stderr`` at each line.

    Attributes:
        level: 0 info, 1 warnings, 2 errors, 3 nothing; None: that of the environment variable
            GLOG_minloglevel, which scripts also set after the import.
    """

    def __init__(self) -> None:
        super().__init__(progress=False)
        self.level: int | None = None
        self._stderr = sys.stderr

    def _write(self, level: str, text: str, caller: FrameType) -> None:
        least = self.level
        if least is None:
            given = os.environ.get("GLOG_minloglevel", "")
            least = int(given) if given.isdecimal() else 0
        if _LEVELS[level] < least:
            return
        if self._stderr is not sys.stderr:  # a notebook or a test put another in its place
            self._stderr = self._stream = sys.stderr
        super()._write(level, text, caller)


LOG = LevelLog()


def init_log(level: int = 0, stderr: bool = True) -> None:
    """Show log lines from ``level`` on: 0 info, 1 warnings, 2 errors; ``stderr=False``: none."""
    LOG.level = level if stderr else len(_LEVELS)


def log(text: str) -> None:
    """Write a line to the log, as ``caffe.log`` does."""
    LOG.info(text)
