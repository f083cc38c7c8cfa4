"""Feeds damaged files to the readers, in separate processes, and classifies the outcome.

Seed, kind and number alone determine which good file is damaged and how, so that any input can be
reproduced.
"""

from __future__ import annotations

import os
import random
import resource
import select
import shutil
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import CaffeKDError, printable
from ..core.memory import MOST_GROWTH, ROOM_BYTES
from .kinds import Kind
from .mutations import damaged

FINE, ERROR = "fine", "error"
FAULTS = ("TRACEBACK", "CRASH", "HANG", "MEMORY", "PRINTED")
MOST_SECONDS = 20.0
_BATCH = 50
_ADDRESS_SPACE = 8 << 30  # a child fails beyond it, before the machine runs out of memory
_MOST_MESSAGE = 2000


@dataclass
class Verdict:
    """The outcome of an input.

    Attributes:
        kind: the kind's name.
        number: the input's number.
        verdict: ``fine``, ``error`` or one of ``FAULTS``.
        message: of the error, with the end of the traceback if there is one.
        grown: bytes that the process grew by.
        seconds: how long it took.
        file: the saved input, where the verdict is a fault.
    """

    kind: str
    number: int
    verdict: str
    message: str
    grown: int = 0
    seconds: float = 0.0
    file: Path | None = None


class Campaign:
    """All inputs of the given kinds.

    Args:
        kinds: the kinds.
        seed: the campaign's.
        work: a folder to work in; faults are saved below it.

    Raises:
        CaffeKDError: a good file is refused.
    """

    def __init__(self, kinds: Sequence[Kind], seed: int, work: Path) -> None:
        self._seed = seed
        self._work = work
        self._good: dict[str, list[Path]] = {}
        self.kinds = []
        for kind in kinds:
            folder = work / "good" / kind.name
            folder.mkdir(parents=True, exist_ok=True)
            good = list(kind.seeds(folder))
            if good:  # recorded files may be absent
                self._good[kind.name] = good
                # So that its imports are done before memory is measured.
                kind.read(self._placed(kind, good[0], work / "good" / f"read-{kind.name}"))
                self.kinds.append(kind)

    def run(self, kind: Kind, numbers: Sequence[int]) -> Iterator[Verdict]:
        """Try the inputs with these numbers; yield each verdict as soon as it is known."""
        for first in range(0, len(numbers), _BATCH):
            waiting = list(numbers[first : first + _BATCH])
            while waiting:
                for verdict in self._batch(kind, tuple(waiting)):
                    waiting.remove(verdict.number)
                    if verdict.verdict in FAULTS:
                        verdict.file = self._save(kind, verdict)
                    yield verdict

    def make(self, kind: Kind, number: int, folder: Path) -> Path:
        """Write the input with a number into a folder; return its path."""
        rng = random.Random(f"{self._seed} {kind.name} {number}")
        good = rng.choice(self._good[kind.name])
        other = rng.choice(self._good[kind.name])
        path = self._placed(kind, good, folder / str(number))
        files, others = _files(path), _files(other)
        file, from_other = rng.choice(files), rng.choice(others)
        file.write_bytes(damaged(file.read_bytes(), rng, from_other.read_bytes()))
        return path

    @staticmethod
    def _placed(kind: Kind, good: Path, at: Path) -> Path:
        """Copy a good file or folder to where it is read or damaged."""
        path = at.with_name(at.name + kind.suffix)
        if good.is_dir():
            shutil.rmtree(path, ignore_errors=True)
            return Path(shutil.copytree(good, path))
        return Path(shutil.copyfile(good, path))

    def _save(self, kind: Kind, verdict: Verdict) -> Path:
        folder = self._work / "faults" / kind.name
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{verdict.number}{kind.suffix}"
        if path.is_dir():
            shutil.rmtree(path)
        return self.make(kind, verdict.number, folder)

    def _batch(self, kind: Kind, numbers: Sequence[int]) -> Iterator[Verdict]:
        """Try inputs in one process until all are done or the process ends."""
        folder = self._work / "now"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        receiving, sending = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(receiving)
            self._child(kind, numbers, folder, sending)
        os.close(sending)
        done = 0
        with open(receiving, "rb", buffering=0) as pipe:
            rest = b""
            while done < len(numbers):
                ready, _, _ = select.select([pipe], [], [], MOST_SECONDS)
                received = pipe.read(1 << 16) if ready else b""
                if not received:
                    break
                *lines, rest = (rest + received).split(b"\n")
                for line in lines:
                    yield _parsed(kind, numbers[done], line)
                    done += 1
        if done < len(numbers):
            died, status = os.waitpid(child, os.WNOHANG) if ready else (0, 0)
            if ready and not died:
                died, status = os.waitpid(child, 0)
            if not died:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                yield Verdict(kind.name, numbers[done], "HANG", f"more than {MOST_SECONDS:g} s")
            else:
                yield Verdict(kind.name, numbers[done], "CRASH", _ending(status))
        else:
            os.waitpid(child, 0)

    def _child(self, kind: Kind, numbers: Sequence[int], folder: Path, sending: int) -> Any:
        """Try inputs and write a line for each; the process exits at the end."""
        os.chdir(folder)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        status = 1
        try:
            for number in numbers:
                path = self.make(kind, number, folder)
                size = sum(p.stat().st_size for p in [path, *path.rglob("*")] if p.is_file())
                before, begin = _peak_bytes(), time.monotonic()
                verdict, message = _tried(kind, path)
                seconds = time.monotonic() - begin
                grown = _peak_bytes(reset=False) - before
                if grown > MOST_GROWTH * size + ROOM_BYTES and verdict in (FINE, ERROR):
                    verdict = "MEMORY"
                line = f"{verdict}\t{grown}\t{seconds:.3f}\t{ascii(message[:_MOST_MESSAGE])}\n"
                os.write(sending, line.encode())
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            status = 0
        finally:
            os._exit(status)


def _files(path: Path) -> list[Path]:
    """Return a file, or the non-empty files of a folder."""
    return sorted(p for p in path.iterdir() if p.stat().st_size) if path.is_dir() else [path]


def _tried(kind: Kind, path: Path) -> tuple[str, str]:
    """Read one input; return verdict and message."""
    try:
        kind.read(path)
    except CaffeKDError as error:
        message = str(error)
        if printable(message) != message or "\n" in message:
            return "PRINTED", f"control characters or lines in: {message}"
        return ERROR, message
    except AssertionError as error:
        return "PRINTED", str(error)
    except (Exception, SystemExit, RecursionError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if "caffe_kd" in f.filename and "fuzz" not in f.filename]
        where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(own[-4:]))
        return "TRACEBACK", f"{type(error).__name__}: {error} at {where}"
    return FINE, ""


def _parsed(kind: Kind, number: int, line: bytes) -> Verdict:
    verdict, grown, seconds, message = line.decode().split("\t", 3)
    return Verdict(kind.name, number, verdict, message[1:-1], int(grown), float(seconds))


def _ending(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"ended with status {os.waitstatus_to_exitcode(status)}"


def _peak_bytes(reset: bool = True) -> int:
    """Return this process's peak memory; ``reset`` restarts the peak at the current size."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10
