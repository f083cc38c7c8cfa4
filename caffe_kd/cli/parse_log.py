"""``parse_log``: writes a training log as tables of numbers."""

from __future__ import annotations

import csv
import io
import math
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import UsageError
from . import flags
from .command_parser import CommandParser
from .guard import guarded

if TYPE_CHECKING:
    from ..logs.log_parser import OutputRow, TrainingLog, TrainRow

SUMMARY = "write a training log as tables of numbers"
GROUP = "check"
EXAMPLE = "output/quickstart/student.log output/quickstart"
DESCRIPTION = """Writes the outputs of training and test net in a log as LOG.train and LOG.test in
OUTPUT_DIR, with the columns of Caffe's parse_log.py: NumIters, Seconds, LearningRate and the
outputs. LearningRate is, as there, the one that was logged last before the row. Further test nets
go to LOG.test_1 and so on. Iterations that a resumed run repeated are written once."""

_FIXED = ("NumIters", "Seconds", "LearningRate")


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    if len(arguments.delimiter) != 1 or arguments.delimiter in '"\r\n':
        raise UsageError(f"-delimiter must be one character. Received: {arguments.delimiter!r}")
    from ..core.files import write_atomically
    from ..logs.log_parser import parse_log

    stem = Path(arguments.output_dir) / Path(arguments.log).name
    for ending, table in tables(parse_log(arguments.log)).items():
        path = stem.with_name(f"{stem.name}.{ending}")
        if table:
            write_atomically(path, _csv(table, arguments.delimiter).encode())
        if arguments.verbose:
            print(f"Wrote {path}" if table else f"Not writing {path}; no lines to write")
    return 0


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("parse_log", DESCRIPTION, EXAMPLE)
    parser.add_argument("log", metavar="LOG", help="the log of a training, ours or Caffe's")
    parser.add_argument("output_dir", metavar="OUTPUT_DIR", help="the folder to write to")
    flags.add(parser, "verbose", action="store_true", help="print what is written")
    flags.add(parser, "delimiter", default=",", help="between columns (default: a comma)")
    return parser


def tables(log: TrainingLog) -> dict[str, list[dict[str, float]]]:
    """Return the rows of each table by the end of its file's name.

    Seconds count from ``Solving`` to the first output of the row. LearningRate is the one logged
    last; in the first row of a table it is the second's, as it is first logged after that row.

    Source: BVLC/caffe's tools/extra/parse_log.py. There the values of several test nets, and the
    values of one blob, overwrite each other; here each has its table and column. What a resumed run
    repeats is there twice.
    """
    found = {"train": _rows(log, log.train), "test": _rows(log, log.tests.get(0, []))}
    for number, rows in log.tests.items():
        if number:
            found[f"test_{number}"] = _rows(log, rows)
    return found


def _rows(log: TrainingLog, rows: Sequence[TrainRow | OutputRow]) -> list[dict[str, float]]:
    logged = [rate.iteration for rate in log.learning_rates]
    table = []
    for row in rows:
        if not row.outputs:
            continue
        before = bisect_left(logged, row.iteration)
        lr = log.learning_rates[before - 1].lr if before else math.nan
        seconds = math.nan if row.logged is None else row.logged
        fixed = dict(zip(_FIXED, (float(row.iteration), seconds, lr), strict=True))
        table.append(fixed | {k: v for k, v in row.outputs.items() if k not in _FIXED})
    if len(table) > 1:
        table[0]["LearningRate"] = table[1]["LearningRate"]
    return table


def _csv(table: list[dict[str, float]], delimiter: str) -> str:
    columns = list(dict.fromkeys(name for row in table for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, delimiter=delimiter)
    writer.writeheader()
    writer.writerows(table)
    return out.getvalue()
