from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from caffe_kd.core.errors import DataError
from caffe_kd.data.prefetch import Prefetch

ROOT = Path(__file__).parents[2]
PATIENCE = 10.0  # seconds until a thread that should end counts as stuck


class Counter:
    """Counts its calls, and fails at one of them."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.calls = 0
        self.fail_at = fail_at

    def make(self) -> int:
        self.calls += 1
        if self.calls == self.fail_at:
            raise DataError("damaged", "record 7")
        return self.calls


def prefetch_threads() -> int:
    return sum(thread.name == "prefetch" for thread in threading.enumerate())


def wait_until(condition: object) -> bool:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.005)
    return False


def test_results_come_in_order() -> None:
    counter = Counter()
    ahead = Prefetch(counter.make, 3)
    assert [ahead.next() for _ in range(50)] == list(range(1, 51))


@pytest.mark.parametrize("depth", [1, 4])
def test_no_more_than_depth_are_made_ahead(depth: int) -> None:
    counter = Counter()
    ahead = Prefetch(counter.make, depth)
    assert wait_until(lambda: counter.calls == depth)
    time.sleep(0.05)
    assert counter.calls == depth
    ahead.next()
    assert wait_until(lambda: counter.calls == depth + 1)


def test_error_surfaces_where_its_result_would_have_come() -> None:
    counter = Counter(fail_at=3)
    ahead = Prefetch(counter.make, 4)
    assert [ahead.next(), ahead.next()] == [1, 2]
    with pytest.raises(DataError, match="^record 7: damaged$"):
        ahead.next()
    assert wait_until(lambda: counter.calls == 3)


def test_stop_waits_for_the_thread() -> None:
    before = prefetch_threads()
    counter = Counter()
    ahead = Prefetch(counter.make, 2)
    ahead.next()
    ahead.stop()
    calls = counter.calls
    assert prefetch_threads() == before
    time.sleep(0.02)
    assert counter.calls == calls


def test_threads_end_with_what_they_work_for() -> None:
    before = prefetch_threads()
    for _ in range(300):
        counter = Counter()
        ahead = Prefetch(counter.make, 2)
        ahead.next()
    del counter, ahead
    gc.collect()
    assert wait_until(lambda: prefetch_threads() == before)


def test_thread_does_not_keep_its_object_alive() -> None:
    before = prefetch_threads()
    ahead = Prefetch(Counter().make, 2)  # nobody else holds the counter
    assert wait_until(lambda: prefetch_threads() == before)
    del ahead


def test_program_ends_while_a_call_is_under_way() -> None:
    """The call is waited for, since what it works with is taken apart at the end."""
    code = (
        "import time\n"
        "from caffe_kd.data.prefetch import Prefetch\n"
        "class Slow:\n"
        "    def make(self):\n"
        "        time.sleep(0.3)\n"
        "        print('made', flush=True)\n"
        "slow = Slow()\n"
        "ahead = Prefetch(slow.make, 100)\n"
        "ahead.next()\n"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["made", "made"]
    assert time.monotonic() - started < PATIENCE
