from __future__ import annotations

import os
import signal

import pytest

from caffe_kd.solver.callback import Action
from caffe_kd.solver.signals import SignalActions

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs POSIX signals")


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_nothing_is_asked_for_without_a_signal():
    with SignalActions() as signals:
        assert signals.requested() is Action.NONE


@pytest.mark.parametrize(
    ("name", "action"),
    [
        ("SIGINT", Action.STOP),
        ("SIGHUP", Action.SNAPSHOT),
        ("SIGTERM", Action.STOP),
        ("SIGUSR1", Action.STOP),
    ],
)
def test_signal_asks_for_its_action_once(name, action):
    with SignalActions() as signals:
        send(getattr(signal, name))
        assert signals.requested() is action
        assert signals.requested() is Action.NONE


def test_effects_may_be_chosen():
    with SignalActions(sigint=Action.SNAPSHOT, sighup=Action.NONE) as signals:
        send(signal.SIGINT)
        assert signals.requested() is Action.SNAPSHOT
        send(signal.SIGHUP)
        assert signals.requested() is Action.NONE


def test_signal_that_stopped_is_known():
    with SignalActions() as signals:
        send(signal.SIGTERM)
        send(signal.SIGHUP)
        assert signals.requested() is Action.STOP
        assert signals.stopped_by == signal.SIGTERM


def test_second_sigterm_does_not_interrupt_what_the_first_asked_for():
    with SignalActions() as signals:
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        assert signals.requested() is Action.STOP


def test_stop_wins_over_snapshot():
    with SignalActions() as signals:
        send(signal.SIGHUP)
        send(signal.SIGINT)
        assert signals.requested() is Action.STOP


def test_second_sigint_interrupts_at_once():
    with SignalActions():
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_second_sigint_waits_once_the_first_was_acted_upon():
    with SignalActions() as signals:
        send(signal.SIGINT)
        signals.requested()
        send(signal.SIGINT)
        assert signals.requested() is Action.STOP


def test_second_sighup_asks_no_more_than_the_first():
    with SignalActions() as signals:
        send(signal.SIGHUP)
        send(signal.SIGHUP)
        assert signals.requested() is Action.SNAPSHOT


def test_handlers_before_are_put_back():
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGHUP)]
    with SignalActions():
        assert signal.getsignal(signal.SIGINT) not in before
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGHUP)] == before
