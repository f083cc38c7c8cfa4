"""``doctor``: reports what is wrong, or easily misunderstood, in a net or solver."""

from __future__ import annotations

from collections.abc import Sequence

from . import flags
from .command_parser import CommandParser
from .guard import guarded
from .output import say

SUMMARY = "find what is wrong with a net or solver, and what it costs"
GROUP = "check"
EXAMPLE = "prototxt/mnist/kd_solver.prototxt"
DESCRIPTION = """Examines a net's or a solver's prototxt of any year: what cannot work, what works
differently than it seems to, and what the net costs in parameters, multiply-adds and memory. Each
finding comes with its line, why it matters and what to do. Data and weights need not be present.
The exit status is 1 if there is an error among the findings."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    given = flags.input_shapes(arguments.input_shape)

    from ..analysis.reading import ReadOptions
    from ..doctor.examine import examine
    from ..doctor.report import as_dict, as_text

    stages = flags.comma_list(arguments.stage)
    report = examine(arguments.file, ReadOptions(arguments.weights, given, arguments.level, stages))
    if arguments.json:
        import json

        print(json.dumps(as_dict(report), indent=1))
    else:
        say(*as_text(report))
    return 1 if report.count("error") else 0


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("doctor", DESCRIPTION, EXAMPLE)
    parser.add_argument(
        "file",
        type=flags.prototxt,
        metavar="FILE",
        help="a net's or a solver's prototxt",
    )
    parser.add_argument(
        "weights", metavar="WEIGHTS", nargs="?", help="a .caffemodel to look at too"
    )
    flags.add(parser, "json", action="store_true", help="print JSON, for programs")
    flags.input_shape(parser)
    flags.state(parser)
    flags.own_code(parser)
    return parser
