"""A command that trains, in a process of its own, and a signal in the middle of it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).parents[2] / "tools"


def stopped(tool: str, *words: str, after: str, by: int = signal.SIGINT) -> list[str]:
    """Run a tool, send a signal once it has logged ``after``, and return what it logged from there.

    It ends by itself then, with the status that all commands have.
    """
    command = [sys.executable, str(TOOLS / f"{tool}.py"), *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if after in line:
            process.send_signal(by)
            break
    told = process.stderr.read().splitlines()
    process.stderr.close()
    assert process.wait() == 128 + by, told
    return told


def newest_state(prefix: Path) -> tuple[Path, int]:
    """Return the state of the greatest iteration, and that; there may be earlier ones."""
    states = prefix.parent.glob(f"{prefix.name}_iter_*.solverstate")
    found = [(int(state.stem.rpartition("_")[2]), state) for state in states]
    iteration, state = max(found)
    return state, iteration
