"""Signals of processes that a script forks."""

from __future__ import annotations

import os
import signal

import pytest

from caffe_kd.cli.guard import guarded
from caffe_kd.solver.signals import SignalActions


def ended_by(start: int) -> int:
    """Return the signal that ends a forked process which is sent SIGTERM, or 0.

    Args:
        start: the id of the process, 0 in it.
    """
    if start == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)  # only where a handler took the signal
    _, status = os.waitpid(start, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_forked_process_is_ended_by_a_signal_that_its_parent_handles() -> None:
    seen = []

    @guarded
    def command(argv: object) -> int:
        seen.append(ended_by(os.fork()))
        with SignalActions() as actions:
            seen.append(ended_by(os.fork()))
            os.kill(os.getpid(), signal.SIGTERM)  # the parent's own handler is still there
            assert actions.requested().name == "STOP"
        return 0

    before = signal.getsignal(signal.SIGTERM)
    assert command([]) == 0
    assert seen == [signal.SIGTERM, signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before
