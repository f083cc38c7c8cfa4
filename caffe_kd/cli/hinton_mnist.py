"""``hinton_mnist``: the MNIST experiments of the distillation paper, compared with its results."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from ..core.errors import UsageError
from ..recipes.hinton_mnist import PARTS, HintonMnist, table
from ..recipes.run_files import digits_in, results_folder
from . import flags, output
from .command_parser import CommandParser
from .guard import guarded

SUMMARY = "reproduce the MNIST experiments of the distillation paper"
GROUP = "train"
EXAMPLE = "-quick"
DESCRIPTION = """Reproduces the MNIST experiments of Hinton, Vinyals and Dean, "Distilling the
Knowledge in a Neural Network" (arXiv 1503.02531, section 3): trains each net by a solver's prototxt
and prints a table of the results beside the paper's. After Ctrl-C the same command continues; what
is done is not done again."""
QUICK_DIGITS = 1500
QUICK_DIVISOR = 10


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    from ..data.mnist import get_mnist

    parts = flags.comma_list(arguments.only) or list(PARTS)
    if unknown := [part for part in parts if part not in PARTS]:
        raise UsageError(f"-only takes {', '.join(PARTS)}. Received: {', '.join(unknown)}")
    started = time.perf_counter()
    found = get_mnist(Path(arguments.dir), allow_download=not arguments.no_download, say=output.say)
    small = (QUICK_DIGITS, QUICK_DIVISOR) if arguments.quick else ()
    folder = Path(arguments.output or results_folder("hinton_mnist", found.kind, arguments.quick))
    experiment = HintonMnist(folder, digits_in(found.folder, *small), output.say, arguments.quick)
    if not arguments.table:
        experiment.train(parts)
    rows = experiment.rows()
    experiment.write(rows)
    print(table(rows) if rows else "Nothing is done yet.")
    if found.kind != "MNIST" or arguments.quick:
        print("These figures are not MNIST's: small digits or a quick run.")
    print(f"Time: {time.perf_counter() - started:.0f} s. results.csv, table.txt and a folder for")
    print(f"each run, with its net, solver, log and weights, are in {folder}")
    return 0


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser(
        "hinton_mnist",
        DESCRIPTION,
        EXAMPLE,
        "\n".join(["parts:", *(f"  {name:12} {what}" for name, what in PARTS.items())]),
    )
    flags.add(
        parser,
        "output",
        metavar="FOLDER",
        help="where everything goes (default: output/experiments/hinton_mnist; quick runs, and "
        "runs on other digits, have folders of their own)",
    )
    flags.digits(parser)
    flags.add(
        parser,
        "only",
        metavar="PARTS",
        help="some parts, separated by commas, and the teachers they need (default: all)",
    )
    flags.add(
        parser,
        "quick",
        action="store_true",
        help="small nets, few digits and epochs: to see that everything works, not for results",
    )
    flags.add(
        parser, "table", action="store_true", help="train nothing; print the table of what is done"
    )
    return parser
