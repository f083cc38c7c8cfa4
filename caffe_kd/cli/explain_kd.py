"""``explain_kd``: prints the objective that a solver really optimises."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.errors import UsageError
from . import flags
from .command_parser import CommandParser
from .guard import guarded
from .output import say

SUMMARY = "print the objective that a solver really optimises, term by term"
GROUP = "check"
EXAMPLE = "-solver prototxt/mnist/kd_solver.prototxt"
DESCRIPTION = """Prints the objective that a solver really optimises in each phase: every term with
its line, formula and values, weight, temperature, what it is summed over and divided by, and the
layers that get its gradient. Before it, whether the teacher's outputs would be cached; after it,
what the doctor finds that makes a distillation differ from what it seems to be. -temperature,
-alpha and -teacher_cache have the effect that they have in train_kd. Data and weights need not be
present. The exit status is 1 if there is an error among the findings, or training would refuse the
-teacher_cache."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)

    given = flags.input_shapes(arguments.input_shape)
    from ..analysis.reading import ReadOptions, read_target
    from ..doctor.explain import as_text, findings
    from ..doctor.report import findings_as_text
    from ..doctor.train_flags import cache_effect, override

    stages = flags.comma_list(arguments.stage)
    target = read_target(arguments.solver, ReadOptions(None, given, arguments.level, stages))
    if target.solver is None:
        raise UsageError(f"{arguments.solver} is a net. Give the solver that trains it")
    notes = override(target, arguments.temperature, arguments.alpha, given)
    cache = cache_effect(target, arguments.teacher_cache)
    if cache is not None:
        notes.append(cache.text)
    found = findings(target)
    say(*as_text(target, notes), *findings_as_text(found))
    refused = cache is not None and cache.refused
    return 1 if refused or any(finding.occurrence.severity == "error" for finding in found) else 0


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("explain_kd", DESCRIPTION, EXAMPLE)
    flags.add(parser, "solver", required=True, metavar="FILE", help="the solver's prototxt")
    flags.distilling(parser)
    flags.teacher_cache(parser)
    flags.input_shape(parser)
    flags.state(parser)
    flags.own_code(parser)
    return parser
