"""``alternate``: trains a teacher and a student in turns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.errors import SolverError
from ..recipes.multi_run import MultiRun, move, read_solver, without_teacher
from . import flags, multi_run
from .command_parser import CommandParser
from .guard import guarded

SUMMARY = "train a teacher and a student in turns"
GROUP = "train"
EXAMPLE = (
    "-teacher_solver prototxt/distillation/alternate_teacher_solver.prototxt "
    "-student_solver prototxt/distillation/alternate_solver.prototxt "
    "-rounds 2"
)
DESCRIPTION = """Trains a teacher and a student in turns. In each round the teacher is trained by
its solver; then the student, from its initial weights, by its own solver with the teacher's new
weights, on data that needs no labels if its nets use none. From round 2 on a teacher whose solver
itself names a teacher, which must be the student's net, continues from its own weights and learns
from the student; any other continues from the student's weights, and so must have the student's
net. Run again, the command continues where it was stopped. The results are in
<the student's snapshot_prefix>_rounds.csv."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    number = multi_run.count(arguments.rounds, "rounds")
    solvers = {
        "teacher": read_solver(arguments.teacher_solver),
        "student": read_solver(arguments.student_solver),
    }
    _check(solvers, arguments)
    for solver in solvers.values():
        move(solver, arguments.output)
    prefix = solvers["student"].snapshot_prefix
    path = Path(f"{prefix}_rounds.csv")
    runs = MultiRun(path, ["round", "net"], multi_run.runner(arguments), 2 * number)
    newest: dict[str, Path] = {}
    for turn in range(1, number + 1):
        for role in ("teacher", "student"):
            own = _solver_of(solvers[role], role, turn, newest)
            newest[role] = runs.train([turn, role], own)
    print(runs.table())
    return 0


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("alternate", DESCRIPTION, EXAMPLE)
    flags.add(parser, "teacher_solver", required=True, metavar="FILE", help="trains the teacher")
    flags.add(parser, "student_solver", required=True, metavar="FILE", help="trains the student")
    flags.add(parser, "rounds", required=True, metavar="N", help="how many to train")
    multi_run.add_flags(parser)
    return parser


def _check(solvers: dict[str, Any], arguments: Any) -> None:
    if len(solvers["student"].teacher) != 1:
        raise SolverError(
            f"names {len(solvers['student'].teacher)} teachers, where the student learns from the "
            "one that the other solver trains",
            arguments.student_solver,
        )
    if len(solvers["teacher"].teacher) > 1:
        raise SolverError(
            f"names {len(solvers['teacher'].teacher)} teachers, where the student is the only one "
            "that the teacher can learn from",
            arguments.teacher_solver,
        )
    if solvers["teacher"].snapshot_prefix == solvers["student"].snapshot_prefix:
        raise SolverError(
            "has the snapshot_prefix of the teacher's solver: give it another",
            arguments.student_solver,
        )


def _solver_of(solver: Any, role: str, turn: int, newest: dict[str, Path]) -> Any:
    """Return the solver of a net's turn, given the newest weights of both."""
    own = type(solver)()
    own.CopyFrom(solver)
    own.snapshot_prefix = f"{solver.snapshot_prefix}_round_{turn}"
    if role == "student":
        own.teacher[0].weights = str(newest["teacher"])
    elif turn == 1:
        without_teacher(own)  # the student is not trained yet
    elif solver.teacher:
        own.weights[:] = [str(newest["teacher"])]
        own.teacher[0].weights = str(newest["student"])
    else:
        own.weights[:] = [str(newest["student"])]
    return own
