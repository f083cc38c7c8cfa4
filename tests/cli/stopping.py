"""A command that trains, in a process of its own, and Ctrl-C in the middle of it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).parents[2] / "tools"


def stopped(tool: str, *words: str, after: str) -> list[str]:
    """Run a tool, press Ctrl-C once it has logged ``after``, and return what it logged from there.

    It ends by itself then, with status 0.
    """
    command = [sys.executable, str(TOOLS / f"{tool}.py"), *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if after in line:
            process.send_signal(signal.SIGINT)
            break
    told = process.stderr.read().splitlines()
    process.stderr.close()
    assert process.wait() == 0, told
    return told
