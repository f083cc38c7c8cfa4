"""``born_again``: each generation of a net learns from the one before it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.errors import SolverError
from ..recipes.multi_run import MultiRun, move, read_solver, without_teacher
from . import flags, multi_run
from .command_parser import CommandParser
from .guard import guarded

SUMMARY = "train generations of a net, each with the one before it as teacher"
GROUP = "train"
EXAMPLE = "-solver prototxt/distillation/kd_solver.prototxt -generations 2 -from_labels"
DESCRIPTION = """Born-again networks: generation 1 is trained as the solver says, and generation k+1
is trained from scratch, with the same net as its student and generation k as its teacher. The
solver has a net and a distiller_net; with a teacher without weights, or the flag -from_labels,
generation 1 learns from the labels alone. Run again, the command continues where it was stopped.
The results are in <snapshot_prefix>_generations.csv. Source: https://arxiv.org/abs/1805.04770."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    generations = multi_run.count(arguments.generations, "generations")
    solver = read_solver(arguments.solver)
    _check(solver, arguments.solver)
    move(solver, arguments.output)
    path = Path(f"{solver.snapshot_prefix}_generations.csv")
    runs = MultiRun(path, ["generation"], multi_run.runner(arguments), generations)
    before: Path | None = None
    for generation in range(1, generations + 1):
        own = _solver_of(solver, generation, before, arguments.from_labels)
        before = runs.train([generation], own)
    print(runs.table())
    return 0


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("born_again", DESCRIPTION, EXAMPLE)
    flags.add(parser, "solver", required=True, metavar="FILE", help="the solver's prototxt")
    flags.add(parser, "generations", required=True, metavar="N", help="how many to train")
    flags.add(
        parser,
        "from_labels",
        action="store_true",
        help="generation 1 learns from the labels alone, whatever teacher the solver names",
    )
    multi_run.add_flags(parser)
    return parser


def _check(solver: Any, path: str) -> None:
    if not solver.distiller_net:
        raise SolverError(
            "names no distiller_net: it holds the loss by which a generation learns from the one "
            "before it, with its blobs as teacher/<blob>",
            path,
        )
    if len(solver.teacher) > 1 or solver.student:
        raise SolverError(
            f"names {len(solver.teacher)} teachers and {len(solver.student)} students, where "
            "generations have one teacher at most, and the solver's net",
            path,
        )


def _solver_of(solver: Any, generation: int, before: Path | None, from_labels: bool) -> Any:
    """Return the solver of a generation; ``before`` are the weights of the one before it."""
    own = type(solver)()
    own.CopyFrom(solver)
    own.snapshot_prefix = f"{solver.snapshot_prefix}_gen_{generation}"
    if solver.random_seed >= 0:
        own.random_seed = solver.random_seed + generation - 1  # each has other initial weights
    if before is None and (from_labels or not any(t.weights for t in solver.teacher)):
        without_teacher(own)
    elif before is not None:
        name = solver.teacher[0].name if solver.teacher else ""
        del own.teacher[:]
        own.teacher.add(name=name, net=solver.net, weights=str(before))
    return own
