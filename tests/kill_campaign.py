"""Kills trainings at random moments, resumes them, and compares what comes out bit by bit.

    python tests/kill_campaign.py [-kills 100] [-terms 50] [-seed 1]

Of each kind of signal, SIGKILL and SIGTERM, half come at any moment and half while a file is being
written: writing is slowed down for them, and says when it begins. A run is a process forked from
one that has loaded torch, so that it takes a second. Some kills are a part of the tests.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
MOST_SIGNALS = 12  # of a training, which then is left alone
STEP_SECONDS = 0.001  # that each step of a slow write takes


def train(folder: Path, slow: bool) -> tuple[int, int]:
    """Start to train in a folder from its newest snapshot; return the process and what it says.

    The descriptor gives a byte for each step of a write, where these are slow, and then ends.
    """
    states = {int(p.stem.rpartition("_")[2]): p.name for p in folder.glob("*.solverstate")}
    words = ["-solver", "solver.prototxt", "-no_progress"]
    words += ["-snapshot", states[max(states)]] if states else []
    reads, writes = os.pipe()
    process = os.fork()
    if process:
        os.close(writes)
        return process, reads
    try:
        from caffe_kd.cli import train as command
        from caffe_kd.core import files

        files._tidied.clear()  # a process looks through a folder once, and this is another one
        os.close(reads)
        os.chdir(folder)
        output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if slow:
            _slow_down(writes)
        os._exit(command.main(words))
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(70)


def _slow_down(says: int) -> None:
    """Make writes take their time, within a file's content and around its renaming."""
    from caffe_kd.proto import binary

    block, fsync = binary.block, os.fsync

    def step() -> None:
        os.write(says, b".")
        time.sleep(STEP_SECONDS)

    def slow_block(*given: Any) -> Iterator[Any]:
        for part in block(*given):
            step()
            yield part

    def slow_fsync(handle: int) -> None:
        step()
        fsync(handle)
        step()

    binary.block = slow_block
    os.fsync = slow_fsync


def wait(process: int, says: int) -> int:
    """Wait for a process to end; return its status, negative for a signal."""
    _, status = os.waitpid(process, 0)
    os.close(says)  # not before: it is written to
    return os.waitstatus_to_exitcode(status)


def send_in_a_write(process: int, says: int, number: int, draw: random.Random) -> None:
    """Send a signal in one of the next steps of a write, or none if the run is over before."""
    for _ in range(draw.randrange(1, 60)):
        if not os.read(says, 1):
            return
    time.sleep(draw.uniform(0, STEP_SECONDS))
    os.kill(process, number)


def send_at_any_moment(
    process: int, says: int, number: int, draw: random.Random, seconds: float
) -> None:
    """Send a signal within some seconds, or none if the run is over before."""
    ready, _, _ = select.select([says], [], [], draw.uniform(0, seconds))
    if not ready:
        os.kill(process, number)


class Campaign:
    """Kills and resumes trainings.

    Args:
        seed: of the moments.

    Attributes:
        sent: how many signals hit a run, by signal and moment.
        trainings: how many trainings came to their end.
        faults: what went wrong.
    """

    def __init__(self, seed: int) -> None:
        self.sent: Counter[tuple[str, str]] = Counter()
        self.trainings = 0
        self.faults: list[str] = []
        self._draw = random.Random(seed)

    def run(self, kills: int, terms: int) -> None:
        """Send so many SIGKILL and SIGTERM, half of each within a write."""
        left = [(signal.SIGKILL, kills), (signal.SIGTERM, terms)]
        plan = [(s, i % 2 == 0) for s, count in left for i in range(count)]
        self._draw.shuffle(plan)
        with TemporaryDirectory() as temporary:
            whole = Path(temporary) / "whole"
            _prepare(whole)
            began = time.monotonic()
            assert wait(*train(whole, slow=False)) == 0, (whole / "output").read_text()
            self._seconds = time.monotonic() - began
            while plan:
                folder = Path(temporary) / str(self.trainings)
                _prepare(folder)
                self._train(folder, plan)
                self._compare(folder, whole)
                self.trainings += 1

    def _train(self, folder: Path, plan: list[tuple[signal.Signals, bool]]) -> None:
        """Train to the end, with some of the planned signals on the way."""
        sent = 0
        while True:
            chosen = plan[-1] if plan and sent < MOST_SIGNALS else None
            process, says = train(folder, slow=chosen is not None and chosen[1])
            if chosen is not None and chosen[1]:
                send_in_a_write(process, says, chosen[0], self._draw)
            elif chosen is not None:
                send_at_any_moment(process, says, chosen[0], self._draw, self._seconds)
            status = wait(process, says)
            if status == 0:
                return
            if chosen is None or status not in (-chosen[0], 128 + chosen[0]):
                self.faults.append(f"status {status}: {(folder / 'output').read_text()[-2000:]}")
                plan.clear()
                return
            plan.pop()
            sent += 1
            self.sent[chosen[0].name, "in a write" if chosen[1] else "at any moment"] += 1

    def _compare(self, folder: Path, whole: Path) -> None:
        for path in whole.glob("run_iter_60.*"):
            other = folder / path.name
            if path.suffix != ".resume" and (
                not other.is_file() or other.read_bytes() != path.read_bytes()
            ):
                self.faults.append(f"training {self.trainings}: {path.name} is another")
        if "Traceback" in (folder / "output").read_text():
            self.faults.append(f"training {self.trainings}: a traceback")
        if left := [p.name for p in folder.glob(".*")]:
            self.faults.append(f"training {self.trainings}: left behind: {left}")


def _prepare(folder: Path) -> None:
    """Write the net, solver and data of a training."""
    from tests.solver.test_resume import write_all

    folder.mkdir()
    write_all(folder, max_iter=60, snapshot=5)


def main() -> int:
    """Run the campaign; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-kills", type=int, default=100)
    parser.add_argument("-terms", type=int, default=50)
    parser.add_argument("-seed", type=int, default=1)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    campaign = Campaign(arguments.seed)
    campaign.run(arguments.kills, arguments.terms)
    for (name, moment), count in sorted(campaign.sent.items()):
        print(f"{count:4} {name} {moment}")
    print(f"{campaign.trainings} trainings, {len(campaign.faults)} faults")
    print("\n".join(campaign.faults))
    return 1 if campaign.faults else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
