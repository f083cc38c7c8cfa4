"""``compose_kd``: prints the net that teacher, student and distiller make."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..errors import UsageError
from . import common

DESCRIPTION = """Prints, as prototxt, the net a solver would train: the student's layers, the
teacher's under teacher/<name> and frozen, and the distiller's."""


@common.guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = common.parser("compose_kd", DESCRIPTION)
    common.flag(parser, "solver", metavar="FILE", help="the solver's prototxt")
    common.flag(parser, "output", metavar="FILE", help="write there instead of to stdout")
    common.flag(
        parser,
        "phase",
        choices=["TRAIN", "TEST", "ALL"],
        default="ALL",
        help="only the layers of this phase (default: ALL, with their include rules)",
    )
    common.flag(parser, "teacher_weights", metavar="FILE", help="weights of the teacher")
    common.flag(parser, "temperature", type=float, help="temperature of every DistillingLoss")
    common.flag(parser, "alpha", type=float, help="alpha of every DistillingLoss, 0 to 1")
    arguments = parser.parse_args(argv)
    if not arguments.solver:
        raise UsageError("Need a solver definition: -solver SOLVER.prototxt")
    from ..proto import text
    from ..solver.plan import Overrides, read_plan

    overrides = Overrides(
        teacher_weights=arguments.teacher_weights,
        temperature=arguments.temperature,
        alpha=arguments.alpha,
    )
    plan = read_plan(arguments.solver, overrides)
    net = plan.composed
    if arguments.phase == "TRAIN":
        net = plan.train.param
    elif arguments.phase == "TEST":
        if not plan.tests:
            raise UsageError("-phase TEST: the solver has no test net (no test_iter)")
        net = plan.tests[0].param
    if arguments.output:
        text.write(arguments.output, net)
        print(f"wrote {arguments.output}", file=sys.stderr)
    else:
        common.print_prototxt(net)
    return 0
