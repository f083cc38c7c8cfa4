"""What tests of commands share."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def run_main(main: Callable[[Sequence[str]], int], *words: str) -> tuple[int, str]:
    """Run a command in this process; return its status and what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        status = main(words)
    return status, printed.getvalue()


def help_without_torch(tool: Path, folder: Path) -> str:
    """Return what a tool prints for ``-h`` in a folder, having held that it imports no torch."""
    probe = (
        "import atexit, runpy, sys\n"
        "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"
        f"sys.argv = [{str(tool)!r}, '-h']\n"
        f"runpy.run_path({str(tool)!r}, run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.strip()) == (0, "False"), done.stderr
    return done.stdout
