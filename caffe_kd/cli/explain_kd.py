"""``explain_kd``: tells what objective a solver really optimises."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..core.errors import UsageError
from . import common

DESCRIPTION = """Prints the objective that a solver really optimises: every term with its place, its
formula and numbers, weight, temperature, what it is summed over and divided by, and the layers that
it teaches; for each phase. Before it, whether the teacher's answers would be remembered; after it,
what the doctor finds that makes a distillation another than it seems. -temperature, -alpha and
-teacher_cache count as they do for train_kd. Data and weights need not be there. The exit status is
1 if there is an error among the findings, or training would refuse the -teacher_cache."""


@common.guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    if not arguments.solver:
        raise UsageError("Need a solver to explain: -solver SOLVER.prototxt")

    given = common.input_shapes(arguments.input_shape)
    from ..analysis.reading import ReadOptions, read_target
    from ..doctor.explain import as_text, findings
    from ..doctor.report import findings_as_text
    from ..doctor.train_flags import override, remembering

    stages = common.comma_list(arguments.stage)
    target = read_target(arguments.solver, ReadOptions(None, given, arguments.level, stages))
    if target.solver is None:
        raise UsageError(f"{arguments.solver} is a net. Give the solver that trains it")
    told = override(target, arguments.temperature, arguments.alpha, given)
    cache = remembering(target, arguments.teacher_cache)
    if cache is not None:
        told.append(cache.told)
    found = findings(target)
    for line in [*as_text(target, told), *findings_as_text(found)]:
        print(line)
    refused = cache is not None and cache.refused
    return 1 if refused or any(finding.occurrence.severity == "error" for finding in found) else 0


def parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = common.new_parser("explain_kd", DESCRIPTION)
    common.flag(parser, "solver", metavar="FILE", help="the solver's prototxt")
    common.distilling_flags(parser)
    common.teacher_cache_flag(parser)
    common.input_shape_flag(parser)
    common.state_flags(parser)
    common.user_code_flags(parser)
    return parser
