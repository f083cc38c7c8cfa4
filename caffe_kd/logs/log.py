"""Log lines in the shape of Caffe's (glog), and a progress line for the terminal.

    I1121 12:34:56.123456  4242 solver.py:123] Iteration 100, lr = 0.01

Tools written for Caffe's logs work on it: level, month and day, time, thread, file and
line of the caller. Every line is flushed, so ``tail -f`` follows a run.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, TextIO

from ..core.errors import CaffeKDError, printable

SECONDS_BETWEEN_UPDATES = 0.2
STATUS_LINE = (
    "{desc}Iteration {n_fmt}/{total_fmt} |{bar}| {postfix[0]}, {rate_fmt}, {remaining} left"
)


class Log:
    """Writes each line to a stream and, where a path is given, to the end of a file.

    A log that can no longer be written (a closed pipe, a full disk) doesn't stop a training: it is
    dropped, with a warning on the other one.

    Args:
        path: the log file; missing folders are made, an existing file is continued.
        stream: for people to read; stderr by default.
        progress: whether ``progress`` shows a status line; None: if the stream is a terminal.
        quiet: whether the lines go to the file only; warnings, by a line without the time, and
            the status line are still on the stream.
        label: what the status line, and the warnings of a quiet log, begin with.

    Raises:
        CaffeKDError: the file cannot be opened for writing.
    """

    def __init__(
        self,
        path: Path | None = None,
        stream: TextIO | None = None,
        progress: bool | None = None,
        quiet: bool = False,
        label: str = "",
    ) -> None:
        self._stream: TextIO | None = sys.stderr if stream is None else stream
        if progress is None:
            progress = self._stream is not None and self._stream.isatty()
        self._progress = progress
        self._quiet = quiet
        self._label = label
        self._bar: Any = None
        self._next_update = 0.0
        self._path = path
        self._file = _open(Path(path)) if path is not None else None
        # Re-entrant: a signal handler may log while the thread it interrupted is logging.
        self._lock = threading.RLock()

    def info(self, text: str) -> None:
        """Log an INFO message; each line of the text becomes a log line."""
        self._write("I", text, sys._getframe(1))

    def warning(self, text: str) -> None:
        """Log a WARNING: something to know that does not stop the run."""
        self._write("W", text, sys._getframe(1))

    def error(self, text: str) -> None:
        """Log an ERROR: what ends the run."""
        self._write("E", text, sys._getframe(1))

    def progress(self, iteration: int, max_iter: int, loss: float, lr: float) -> None:
        """Show iteration, loss, learning rate, speed and time left below the log lines.

        Call it in every iteration: most calls return at once, and ``loss`` may be a tensor, which
        is only read when the line is drawn.
        """
        if not self._progress:
            return
        now = time.monotonic()
        if now < self._next_update and iteration < max_iter:
            return
        self._next_update = now + SECONDS_BETWEEN_UPDATES
        with self._lock:
            self._draw(iteration, max_iter, f"loss {float(loss):.4g}, lr {float(lr):.3g}")

    def close(self) -> None:
        """Remove the progress line and close the file; the stream stays open."""
        with self._lock:
            self._end_bar()
            if self._file is not None:
                self._file.close()
                self._file = None

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self, level: str, text: str, caller: FrameType) -> None:
        place = f"{os.path.basename(caller.f_code.co_filename)}:{caller.f_lineno}"
        now = datetime.now().strftime("%m%d %H:%M:%S.%f")
        prefix = f"{level}{now} {threading.get_native_id():5d} {place}] "
        lines = "".join(f"{prefix}{printable(x)}\n" for x in text.rstrip("\n").split("\n"))
        with self._lock:
            self._write_file(lines)
            if not self._quiet:
                self._write_stream(lines)
            elif level == "W":
                of = f"{self._label}: " if self._label else ""
                self._write_stream(f"warning: {of}{printable(text)}\n")

    def _write_file(self, lines: str) -> None:
        if self._file is None:
            return
        try:
            self._file.write(lines)
            self._file.flush()
        except OSError as error:
            self._file = None
            self.warning(f"{self._path}: the log file ends here: {error.strerror}")

    def _write_stream(self, lines: str) -> None:
        if self._stream is None:
            return
        try:
            if self._bar is not None:
                self._bar.clear()
            self._stream.write(lines)
            self._stream.flush()
            if self._bar is not None:
                self._bar.refresh()
        except OSError as error:
            self._drop_stream(error)

    def _draw(self, iteration: int, max_iter: int, figures: str) -> None:
        bar = self._bar
        try:
            if bar is None or bar.total != max_iter or iteration < bar.n:  # another run began
                self._end_bar()
                self._bar = _new_bar(self._stream, iteration, max_iter, figures, self._label)
                return
            bar.postfix[0] = figures
            if not bar.update(iteration - bar.n):
                bar.refresh()
        except OSError as error:
            self._drop_stream(error)

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _drop_stream(self, error: OSError) -> None:
        self._stream = None
        self._progress = False
        if self._bar is not None:
            self._bar.disable = True  # it would write once more when it is collected
            self._bar = None
        self.warning(f"the log stream is closed: {error.strerror}")


def _open(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A file name in the text may not be valid Unicode; logging must not fail for it.
        return open(path, "a", encoding="utf-8", errors="backslashreplace", opener=_at_once)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        message = f"the log file cannot be written: {getattr(error, 'strerror', error)}"
        raise CaffeKDError(message, str(path)) from None


def _at_once(path: str, flags: int) -> int:
    """Open a file without blocking: a pipe without a reader is an error."""
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    if hasattr(os, "O_NONBLOCK"):
        os.set_blocking(handle, True)
    return handle


def _new_bar(stream: TextIO | None, iteration: int, max_iter: int, figures: str, label: str) -> Any:
    from tqdm import tqdm  # type: ignore[import-untyped]

    return tqdm(
        desc=f"{label}: " if label else "",
        total=max_iter,
        initial=iteration,
        file=stream,
        unit="it",
        bar_format=STATUS_LINE,
        postfix=[figures],
        dynamic_ncols=True,
        mininterval=0,  # progress() limits the updates already
        miniters=1,
        leave=False,
        position=0,
    )
