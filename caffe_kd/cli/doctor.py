"""``doctor``: tells what a user should know before trusting a net or solver."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..errors import UsageError
from . import common

DESCRIPTION = """Examines a net's or a solver's prototxt of any year: what cannot work, what works
otherwise than it seems to, and what the net costs in parameters, multiply-adds and memory. Each
finding has its place, why it matters and what to do. Data and weights need not be there. The exit
status is 1 if there is an error among the findings."""


@common.guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = _parser().parse_args(argv)
    given = dict(read_shape(text) for text in arguments.input_shape)
    from .train import load_layer_modules

    load_layer_modules(arguments.layers)
    from ..doctor.examine import examine
    from ..doctor.reading import Wishes
    from ..doctor.report import as_dict, as_text

    stages = common.comma_list(arguments.stage)
    report = examine(arguments.file, Wishes(arguments.weights, given, arguments.level, stages))
    if arguments.json:
        import json

        print(json.dumps(as_dict(report), indent=1))
    else:
        for line in as_text(report):
            print(line)
    return 1 if report.count("error") else 0


def read_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Read ``data=3,28,28``; without a name it is for any data layer."""
    name, _, numbers = text.rpartition("=")
    extents = common.comma_list(numbers)
    if not extents or not all(e.isdigit() and 0 < int(e) < 2**31 for e in extents):
        raise UsageError(
            f"-input_shape takes a record's extents, as data=3,28,28. Received: {text}"
        )
    return name, tuple(int(extent) for extent in extents)


def _parser() -> argparse.ArgumentParser:
    parser = common.parser("doctor", DESCRIPTION)
    parser.add_argument("file", metavar="FILE", help="a net's or a solver's prototxt")
    parser.add_argument(
        "weights", metavar="WEIGHTS", nargs="?", help="a .caffemodel to look at too"
    )
    common.flag(parser, "json", action="store_true", help="print JSON, for programs")
    common.flag(
        parser,
        "input_shape",
        action="append",
        default=[],
        metavar="BLOB=C,H,W",
        help="the shape of a record, where its data is absent; may be given for several blobs",
    )
    common.flag(parser, "level", type=common.int32, default=0, help="the net's level (default: 0)")
    common.flag(parser, "stage", metavar="NAMES", help="the net's stages, separated by commas")
    common.python_layers_flag(parser)
    common.flag(
        parser,
        "layers",
        metavar="FILE",
        help="a Python file that registers layer types of your own",
    )
    return parser
