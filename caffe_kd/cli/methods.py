"""``methods``: the distillation methods of the examples side by side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from ..core.errors import UsageError, did_you_mean
from . import flags, output
from .command_parser import CommandParser
from .guard import guarded

SUMMARY = "train a student by each distillation method, side by side"
GROUP = "train"
EXAMPLE = "-only kd,at,fitnet -seeds 3"
DESCRIPTION = """Trains a student without a teacher, and by each method of prototxt/distillation
that uses the common teacher and student, with the examples' settings, the same number of iterations
and several seeds. Prints a table with the mean and the spread of the accuracies. After Ctrl-C the
same command continues; what is done is not done again."""
QUICK_DIGITS, QUICK_ITERATIONS = 1500, 60


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    if arguments.seeds < 1:
        raise UsageError(f"-seeds must be at least 1. Received: {arguments.seeds}")
    if arguments.iterations is not None and arguments.iterations < 1:
        raise UsageError(f"-iterations must be at least 1. Received: {arguments.iterations}")
    from ..data.mnist import get_mnist
    from ..recipes.methods import Comparison, methods, table
    from ..recipes.run_files import digits_in, results_folder

    names = flags.comma_list(arguments.only) or list(methods())
    for name in names:
        if name not in methods():
            raise UsageError(
                f"-only: there is no method '{name}'.{did_you_mean(name, methods())} "
                f"Methods: {', '.join(methods())}"
            )
    started = time.perf_counter()
    found = get_mnist(Path(arguments.dir), allow_download=not arguments.no_download, say=output.say)
    digits = digits_in(found.folder, *((QUICK_DIGITS,) if arguments.quick else ()))
    iterations = arguments.iterations or (QUICK_ITERATIONS if arguments.quick else None)
    seeds = 1 if arguments.quick else arguments.seeds
    folder = Path(arguments.output or results_folder("methods", found.kind, arguments.quick))
    count = arguments.digits
    if count is not None and not 1 <= count <= digits.train:
        raise UsageError(f"-digits must be in 1..{digits.train}. Received: {count}")
    comparison = Comparison(folder, digits, names, seeds, iterations, count, output.say)
    try:
        if not arguments.table:
            comparison.train()
    finally:
        rows = comparison.rows()
        if rows:
            comparison.write(rows)
        print(table(rows) if rows else "Nothing is done yet.", flush=True)
    if found.kind != "MNIST" or arguments.quick:
        print("These figures are not MNIST's: small digits or a quick run.")
    print(f"Time: {time.perf_counter() - started:.0f} s. results.csv, table.txt, methods.png and")
    print(f"a folder for each run, with its net, solver, log and weights, are in {folder}")
    return 0


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("methods", DESCRIPTION, EXAMPLE)
    flags.add(
        parser,
        "output",
        metavar="FOLDER",
        help="where everything goes (default: output/experiments/methods; quick runs, and runs on "
        "other digits, have folders of their own)",
    )
    flags.digits(parser)
    flags.add(
        parser, "only", metavar="METHODS", help="some methods, separated by commas (default: all)"
    )
    flags.add(
        parser,
        "seeds",
        metavar="N",
        type=flags.int32,
        default=3,
        help="how many times each is trained, from different seeds (default: 3)",
    )
    flags.add(
        parser,
        "iterations",
        metavar="N",
        type=flags.int32,
        help="of each training (default: the examples', one epoch of MNIST)",
    )
    flags.add(
        parser,
        "digits",
        metavar="N",
        type=flags.int32,
        help="how many training digits the students use; the teachers use all (default: all)",
    )
    flags.add(
        parser,
        "quick",
        action="store_true",
        help="few digits and iterations, one seed: to see that everything works, not for results",
    )
    flags.add(
        parser, "table", action="store_true", help="train nothing; print the table of what is done"
    )
    return parser
