"""``explain_kd``: tells what objective a solver really optimises."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..errors import UsageError
from . import common

DESCRIPTION = """Prints the objective that a solver really optimises: every term with its place, its
formula and numbers, weight, temperature, what it is summed over and divided by, and the layers that
it teaches; for each phase. Then what the doctor finds that makes a distillation another than it
seems. Data and weights need not be there. The exit status is 1 if there is an error among the
findings."""


@common.guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = _parser().parse_args(argv)
    if not arguments.solver:
        raise UsageError("Need a solver to explain: -solver SOLVER.prototxt")
    from .doctor import read_shape
    from .train import load_layer_modules

    given = dict(read_shape(text) for text in arguments.input_shape)
    load_layer_modules(arguments.layers)
    from ..doctor.reading import Wishes, read_case
    from ..doctor.report import findings_as_text
    from ..explain import as_text, findings

    stages = common.comma_list(arguments.stage)
    case = read_case(arguments.solver, Wishes(None, given, arguments.level, stages))
    if case.solver is None:
        raise UsageError(f"{arguments.solver} is a net. Give the solver that trains it")
    found = findings(case)
    for line in [*as_text(case), *findings_as_text(found)]:
        print(line)
    return 1 if any(finding.hit.severity == "error" for finding in found) else 0


def _parser() -> argparse.ArgumentParser:
    parser = common.parser("explain_kd", DESCRIPTION)
    common.flag(parser, "solver", metavar="FILE", help="the solver's prototxt")
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
