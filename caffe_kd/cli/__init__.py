"""The commands, one module each."""

import contextlib
import os
import signal
from types import FrameType

# OpenMP's idle threads sleep instead of spinning. On a machine whose cores are all at work, a
# spinning thread keeps the one it waits for off the core, and training becomes ten times slower.
# It has to be said before torch loads OpenMP; what the user says wins.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def silent_end(number: int, _frame: FrameType | None) -> None:
    """End the process as the signal does by itself."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


# Until guard.py is there to report it, Ctrl-C ends a command without a traceback of its imports.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    with contextlib.suppress(ValueError):  # imported in a thread, which cannot set it
        signal.signal(signal.SIGINT, silent_end)
