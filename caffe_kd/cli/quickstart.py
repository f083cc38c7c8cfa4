"""``quickstart``: a teacher, a student alone and the same student distilled, on digits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from ..core.errors import UsageError
from . import flags, output
from .command_parser import CommandParser
from .guard import guarded

SUMMARY = "train a teacher, a student and the distilled student on digits"
GROUP = "train"
EXAMPLE = "-output output/quickstart"
DESCRIPTION = """Gets the handwritten digits, trains a teacher, trains a small student alone,
distils the teacher into the same student, and prints what came out. A second run reuses what is
there."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    if arguments.passes is not None and arguments.passes < 1:
        raise UsageError(f"-passes must be at least 1. Received: {arguments.passes}")
    from ..data.mnist import get_mnist
    from ..recipes.quickstart import run, table, verdict

    started = time.perf_counter()
    digits = get_mnist(
        Path(arguments.dir), allow_download=not arguments.no_download, say=output.say
    )
    folder = Path(arguments.output)
    results = run(folder, digits, arguments.passes, output.say, arguments.gpu)
    lines = ["", table(results), "", verdict(results)]
    if digits.kind != "MNIST":
        lines.append(
            "These are the small digits of scikit-learn: the figures are not MNIST's, and "
            f"{results[0].tested} test digits are too few to compare two students."
        )
    lines += [
        f"Time: {time.perf_counter() - started:.0f} s. All files are in {folder}:",
        "  student.onnx         the student for ONNX Runtime",
        "  deploy.prototxt      its net, for student_iter_*.caffemodel",
        "  training.png         the three trainings; their logs are *.log",
        "  *_solver.prototxt    what was run, and the nets they name",
    ]
    print("\n".join(lines))
    return 0


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("quickstart", DESCRIPTION, EXAMPLE)
    flags.add(
        parser,
        "output",
        metavar="FOLDER",
        default="output/quickstart",
        help="where everything goes (default: output/quickstart)",
    )
    flags.digits(parser)
    flags.gpu(parser, "train")
    flags.add(
        parser,
        "passes",
        type=int,
        metavar="N",
        help="epochs of each training (default: teacher 3, student 20)",
    )
    return parser
