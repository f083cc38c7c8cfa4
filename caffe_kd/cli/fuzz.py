"""``fuzz``: feeds damaged files to every reader and reports those that are handled badly."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import UsageError
from ..core.tables import text_table
from . import flags
from .command_parser import CommandParser
from .guard import guarded

if TYPE_CHECKING:
    from ..fuzz.campaign import Verdict

SUMMARY = "feed damaged files to every reader"
GROUP = "check"
EXAMPLE = "-count 100"
DESCRIPTION = """Damages good files in ways that a seed determines, and reads them. Each must be
read or refused with an error of one line, within 20 seconds and 4 times the file's size plus 64 MB
of memory. Any other is saved, and the command that repeats it printed; the exit status is then 1.
For developers of this package; it runs on Linux."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    if not sys.platform.startswith("linux"):
        raise UsageError("fuzz measures processes through /proc, so it runs on Linux only")
    from ..fuzz.campaign import FAULTS, Campaign
    from ..fuzz.kinds import kinds
    from .main import main as run_command

    known = kinds(Path(arguments.golden).resolve(), run_command)
    names = flags.comma_list(arguments.only) or [kind.name for kind in known]
    if unknown := set(names) - {kind.name for kind in known}:
        raise UsageError(
            f"-only takes some of {', '.join(k.name for k in known)}. "
            f"Received: {', '.join(sorted(unknown))}"
        )
    work = Path(arguments.output).resolve()
    campaign = Campaign([k for k in known if k.name in names], arguments.seed, work)
    share = sum(kind.share for kind in campaign.kinds)
    counts: dict[str, Counter[str]] = {}
    begin, done = time.monotonic(), 0
    for kind in campaign.kinds:
        count = max(1, round(arguments.count * kind.share / share))
        counts[kind.name] = Counter()
        for verdict in campaign.run(kind, range(arguments.first, arguments.first + count)):
            counts[kind.name][verdict.verdict] += 1
            done += 1
            if verdict.verdict in FAULTS:
                _show(verdict, arguments)
            _progress(kind.name, done, arguments.count, time.monotonic() - begin)
    print(*_table(counts), sep="\n")
    return 1 if any(counts[name][fault] for name in counts for fault in FAULTS) else 0


def _show(verdict: Verdict, arguments: argparse.Namespace) -> None:
    print(f"{verdict.verdict} {verdict.kind} {verdict.number}: {verdict.message[:300]}")
    print(
        f"    {verdict.grown >> 20} MB, {verdict.seconds:.1f} s, saved as {verdict.file}\n"
        f"    repeat: caffe_kd fuzz -seed {arguments.seed} -only {verdict.kind} "
        f"-first {verdict.number} -count 1",
        flush=True,
    )


def _progress(name: str, done: int, count: int, seconds: float) -> None:
    if sys.stderr.isatty():
        left = seconds / done * max(0, count - done)
        print(f"\r{done}/{count} {name:12s} {left:.0f} s left ", end="", file=sys.stderr)


def _table(counts: dict[str, Counter[str]]) -> list[str]:
    """Return how many inputs of each kind ended how."""
    from ..fuzz.campaign import ERROR, FAULTS, FINE

    columns = (FINE, ERROR, *FAULTS)
    sums = Counter[str]()
    for of_kind in counts.values():
        sums += of_kind
    rows: list[list[str]] = [["kind", *columns]]
    rows += [
        [name, *(str(of_kind[c]) for c in columns)]
        for name, of_kind in [*counts.items(), (f"all {sums.total()}", sums)]
    ]
    return text_table(rows)


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("fuzz", DESCRIPTION, EXAMPLE)
    flags.add(parser, "seed", type=int, default=0, help="decides the damage (default: 0)")
    flags.add(parser, "count", type=int, default=1000, help="how many inputs (default: 1000)")
    flags.add(parser, "first", type=int, default=0, help="the first input's number")
    flags.add(parser, "only", metavar="KINDS", help="kinds of files, separated by commas")
    flags.add(
        parser,
        "golden",
        metavar="FOLDER",
        default="tests/golden",
        help="recorded files to damage beside those that are made (default: %(default)s)",
    )
    flags.add(
        parser,
        "output",
        metavar="FOLDER",
        default="fuzz",
        help="where to work and to save what went wrong (default: %(default)s)",
    )
    return parser
