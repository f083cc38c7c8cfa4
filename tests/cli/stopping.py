"""A command that trains, in a process of its own, and a signal in the middle of it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

TOOLS = Path(__file__).parents[2] / "tools"


def stopped(
    tool: str, *words: str, after: str, by: int = signal.SIGINT, log: str = ""
) -> list[str]:
    """Run a tool, send a signal once it has logged ``after``, and return what it logged from there.

    It ends by itself then, with the status that all commands have.

    Args:
        tool: its name.
        words: its arguments.
        after: what the line has after which the signal is sent.
        by: the signal.
        log: a glob pattern of log files, where Caffe's lines go into them alone.
    """
    command = [sys.executable, str(TOOLS / f"{tool}.py"), *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while log and process.poll() is None:
        if any(after in path.read_text() for path in Path().glob(log)):
            process.send_signal(by)
            break
        time.sleep(0.05)
    else:
        for line in process.stderr:
            if after in line:
                process.send_signal(by)
                break
    lines = process.stderr.read().splitlines()
    process.stderr.close()
    assert process.wait() == 128 + by, lines
    return lines


def newest_state(prefix: Path) -> tuple[Path, int]:
    """Return the state of the greatest iteration, and that; there may be earlier ones."""
    states = prefix.parent.glob(f"{prefix.name}_iter_*.solverstate")
    found = [(int(state.stem.rpartition("_")[2]), state) for state in states]
    iteration, state = max(found)
    return state, iteration
