"""``dark_knowledge``: draws what a teacher knows beyond the labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import UsageError
from . import flags
from .command_parser import CommandParser
from .guard import guarded
from .output import say, say_to_stderr

if TYPE_CHECKING:
    from ..dark_knowledge.teacher_student import TeacherStudent

SUMMARY = "draw what a teacher knows beyond the labels"
GROUP = "check"
EXAMPLE = (
    "-solver prototxt/mnist/kd_solver.prototxt -weights output/mnist/student_iter_18760.caffemodel"
)
DESCRIPTION = """Draws what a teacher knows beyond the labels, on a test set of images: for a sample
of each class the teacher's probabilities, softened by several temperatures; which classes it finds
similar; and the samples on which student and teacher differ. Give a solver with a teacher, and the
student's snapshot as -weights; or nets as -model with their -weights."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    if bool(arguments.solver) == bool(arguments.model):
        raise UsageError("give either -solver SOLVER.prototxt or -model NET.prototxt with -weights")
    if arguments.teacher and not arguments.solver:
        raise UsageError("-teacher selects one of the teachers of a -solver")
    if arguments.iterations < 1:
        raise UsageError(f"-iterations must be at least 1. Received: {arguments.iterations}")
    temperatures = _temperatures(arguments.temperatures)

    from ..dark_knowledge import teacher_student
    from ..dark_knowledge.draw import draw
    from ..dark_knowledge.look import look, most_similar
    from ..figures.samples import percent
    from .classify import class_names

    if arguments.solver:
        nets = teacher_student.of_solver(arguments.solver, arguments.weights, arguments.teacher)
    else:
        models, weights = map(flags.comma_list, (arguments.model, arguments.weights))
        nets = teacher_student.of_models(models, weights)
    _print_notes(nets)
    found = look(nets, arguments.iterations)
    names = class_names(arguments.labels, found.classes)
    temperatures = temperatures or sorted({1.0, found.temperature, 20.0})
    for who, right in zip(("teacher", "student"), found.right, strict=False):
        print(f"{who}: right on {right:,} of {found.total:,} samples")
    if nets.student is not None:
        print(f"they differ on {found.disagreements:,}")
    print(f"classes that the teacher finds similar, at temperature {found.temperature:g}:")
    for true, other, share in most_similar(found):
        say(f"  {names[true]} has {percent(share)} of {names[other]}")
    for path in draw(found, names, temperatures, Path(arguments.output)):
        print(path)
    return 0


def _print_notes(nets: TeacherStudent) -> None:
    if nets.others:
        name = nets.teacher.partition("/")[0]
        print(f"teacher '{name}'; with -teacher: {', '.join(nets.others)}")
    say_to_stderr(*(f"warning: {note}" for note in nets.notes))


def _temperatures(text: str | None) -> list[float]:
    try:
        found = [float(part) for part in flags.comma_list(text)]
    except ValueError:
        found = [math.nan]
    if not all(0 < value < math.inf for value in found) or len(found) > 6:
        raise UsageError(
            f"-temperatures takes up to 6 numbers above 0, as 1,4,20. Received: {text}"
        )
    return found


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("dark_knowledge", DESCRIPTION, EXAMPLE)
    flags.add(parser, "solver", metavar="FILE", help="a solver's prototxt that names a teacher")
    flags.add(
        parser,
        "teacher",
        metavar="NAME",
        help="which of the solver's teachers (default: the first)",
    )
    flags.add(
        parser, "model", metavar="FILES", help="the teacher's net; after a comma the student's"
    )
    flags.add(
        parser,
        "weights",
        metavar="FILES",
        help="with -solver the student's caffemodel, with -model one for each net",
    )
    flags.add(
        parser,
        "output",
        metavar="FOLDER",
        default="dark_knowledge",
        help="where to put the figures (default: %(default)s)",
    )
    flags.add(
        parser,
        "temperatures",
        metavar="T,T",
        help="the temperatures to show (default: 1, the one the student is distilled at, 20)",
    )
    flags.add(parser, "labels", metavar="FILE", help="the classes' names, one a line")
    flags.add(
        parser,
        "iterations",
        type=flags.int32,
        default=100,
        metavar="N",
        help="batches at most (default: 100); each sample is used once",
    )
    flags.own_code(parser)
    return parser
