"""What all tests need."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator

import numpy as np
import pytest
import torch

_FIRST_STATE = torch.get_rng_state()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Begin each test with the same random numbers, whatever ran before it in this process."""
    torch.set_rng_state(_FIRST_STATE)
    np.random.seed(0)
    random.seed(0)


@pytest.fixture(scope="session", autouse=True)
def signals_have_their_default() -> Iterator[None]:
    """Undo what a shell does to a job in the background, and nohup, which commands inherit."""
    defaults = {"SIGINT": signal.default_int_handler, "SIGHUP": signal.SIG_DFL}
    ignored = [
        number
        for number in (getattr(signal, name, None) for name in defaults)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN
    ]
    for number in ignored:
        signal.signal(number, defaults[number.name])
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
