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
PATIENCE = 120.0  # seconds until a thread that should end counts as stuck


class Counter:
    """Counts its calls, and fails at one of them."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.calls = 0
        self.fail_at = fail_at

    def make(self) -> int:
        self.calls += 1
        if self.calls == self.fail_at:
            raise DataError("damaged", "sample 7")
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
    with pytest.raises(DataError, match="^sample 7: damaged$"):
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
    ahead = Prefetch(Counter().make, 2)  # nothing else refers to the counter
    assert wait_until(lambda: prefetch_threads() == before)
    del ahead


def run_script(code: str) -> subprocess.CompletedProcess[str]:
    start = "import time\nfrom caffe_kd.data.prefetch import Prefetch\n"
    command = [sys.executable, "-c", start + code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_program_ends_while_a_call_is_under_way() -> None:
    """The call is waited for, since what it works with is taken apart at the end."""
    done = run_script(
        "class Slow:\n"
        "    seconds = 0\n"
        "    def make(self):\n"
        "        time.sleep(self.seconds)\n"
        "        self.seconds = 6\n"
        "        print('made', flush=True)\n"
        "slow = Slow()\n"
        "ahead = Prefetch(slow.make, 100)\n"
        "ahead.next()\n"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["made", "made"]


def test_program_ends_while_what_was_made_ahead_is_given_up() -> None:
    """That takes time too, in the thread, after the last call."""
    done = run_script(
        "class Made:\n"
        "    def __del__(self):\n"
        "        time.sleep(0.5)\n"
        "        print('gone', flush=True)\n"
        "class Maker:\n"
        "    def make(self):\n"
        "        return Made()\n"
        "maker = Maker()\n"
        "ahead = Prefetch(maker.make, 1)\n"
        "while ahead._ready.empty(): time.sleep(0.01)\n"
        "del ahead\n"
        "time.sleep(0.2)\n"
    )
    assert (done.returncode, done.stderr, done.stdout.split()) == (0, "", ["gone"])
