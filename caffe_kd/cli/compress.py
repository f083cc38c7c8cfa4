"""``compress``: prunes, distils, folds and quantises a trained net by one command."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from . import flags, output
from .command_parser import CommandParser
from .guard import guarded

SUMMARY = "prune, distil and quantise a net by one command"
GROUP = "deploy"
EXAMPLE = "-solver prototxt/mnist/kd_solver.prototxt -macs 0.3 -bits 8 -output output/compressed"
DESCRIPTION = """Prunes the student of a solver in rounds, distils after each, folds BatchNorm,
quantises, and writes prototxt, caffemodel and ONNX, float and int8. The student learns from the
solver's teacher; with an ordinary solver, from what it was before. It starts with -weights, else
with the solver's; else it is trained first. Each training is the solver's own, with its rate and
length. Ctrl-C loses nothing: the same command goes on, and skips what is done with the same
inputs. Prints what each net costs and how well it does, which report.html shows too."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = parser().parse_args(argv)
    from ..core.files import write_atomically
    from ..recipes.compress.options import CompressOptions

    options = CompressOptions(
        macs=arguments.macs,
        bits=arguments.bits,
        rounds=arguments.rounds,
        iterations=arguments.iterations,
        criterion=arguments.criterion,
        scope=arguments.scope,
        floor=arguments.floor,
        exclude=flags.comma_list(arguments.exclude),
        qat=arguments.qat,
        tolerance=arguments.tolerance,
    )
    options.check()
    from ..recipes.compress import report
    from ..recipes.compress.compress import compress
    from ..recipes.runner import ExperimentRunner
    from ..solver.run import RunOptions

    folder = Path(arguments.output)
    weights = Path(arguments.weights) if arguments.weights else None
    runner = ExperimentRunner(output.say, RunOptions(gpu=arguments.gpu))
    result = compress(Path(arguments.solver), weights, folder, options, runner)
    command = shlex.join(["caffe_kd", "compress", *words])
    write_atomically(folder / "report.html", report.page(result, command).encode())
    lines = ["", report.table(result), "", report.verdict(result), *result.notes]
    files = {**result.files, "report.html": "the same table, and what is left of each layer"}
    width = max(map(len, files))
    lines += [f"All files are in {folder}:"]
    lines += [f"  {name:{width}}  {what}" for name, what in files.items()]
    print("\n".join(lines))
    return 0


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("compress", DESCRIPTION, EXAMPLE)
    flags.add(parser, "solver", required=True, metavar="FILE", help="the solver's prototxt")
    flags.add(parser, "weights", metavar="FILE", help="the .caffemodel the student starts with")
    flags.add(
        parser,
        "macs",
        type=float,
        help="prune to this share of the multiply-adds (default: no pruning)",
    )
    flags.add(
        parser,
        "bits",
        type=flags.int32,
        default=8,
        help="of a weight, 2 to 8; below 8 they are found by training; 32: float (default: 8)",
    )
    flags.add(
        parser,
        "rounds",
        type=flags.int32,
        default=3,
        help="how often it is pruned and distilled, by the same factor each time (default: 3)",
    )
    flags.add(
        parser,
        "iterations",
        type=flags.int32,
        help="of each training (default: the solver's max_iter)",
    )
    flags.add(
        parser,
        "criterion",
        choices=["L1", "L2", "BN_SCALE", "TAYLOR", "RANDOM"],
        default="L1",
        help="what a channel is worth, as in caffe_kd prune (default: L1)",
    )
    flags.add(
        parser,
        "scope",
        choices=["LAYER", "GLOBAL"],
        default="LAYER",
        help="prune the same share of each layer, or by one ranking of all channels (default: "
        "LAYER)",
    )
    flags.add(
        parser,
        "floor",
        type=float,
        help="the least share of its channels that each layer keeps (default: 0.1 in a global "
        "ranking, else 0)",
    )
    flags.add(
        parser, "exclude", metavar="LAYERS", help="layers that keep their channels, by commas"
    )
    flags.add(
        parser, "qat", action="store_true", help="train the rounding, even if it costs little"
    )
    flags.add(
        parser,
        "tolerance",
        type=float,
        default=0.5,
        help="the points of accuracy that int8 may lose before the rounding is trained (default: "
        "0.5)",
    )
    flags.add(
        parser,
        "output",
        metavar="FOLDER",
        default="output/compressed",
        help="where everything goes (default: %(default)s)",
    )
    flags.gpu(parser, "train")
    flags.own_code(parser)
    return parser
