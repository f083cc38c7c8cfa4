"""``prune``: removes the least channels of a trained net."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import UsageError
from . import flags, output
from .command_parser import CommandParser
from .guard import guarded

if TYPE_CHECKING:
    from ..pruning.options import PruneOptions
    from ..pruning.recover import Recovery

SUMMARY = "remove channels of a trained net, and distil back what that costs"
GROUP = "deploy"
EXAMPLE = (
    "-model prototxt/mnist/teacher_train_test.prototxt "
    "-weights output/mnist/teacher_iter_9380.caffemodel "
    "-ratio 0.5 -output output/mnist/pruned -solver_output output/mnist/pruned_solver.prototxt"
)
DESCRIPTION = """Removes whole channels, so that the net is smaller and faster for every runtime:
writes NAME.prototxt with the layers of all phases, NAME.caffemodel, and a table. Channels that
outputs, losses or layers of unknown types need stay. The pruned net makes many errors at first:
train it with the solver of -solver_output, in which it learns from the unpruned one, or let -rounds
do both in turns."""
_TARGETS = {
    "ratio": "remove this share of each layer's channels",
    "macs": "leave at most so many multiply-adds of weights; below 1: this share of them",
    "parameters": "leave at most so many parameters; below 1: this share of them",
    "latency": "leave at most so many microseconds in ONNX Runtime, for one sample on one thread; "
    "below 1: this share of them",
}


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    options = _options(arguments)
    recovery = _recovery(arguments)
    if arguments.rounds:
        _in_rounds(arguments, options, recovery)
    else:
        _at_once(arguments, options, recovery)
    return 0


def _at_once(arguments: Namespace, options: PruneOptions, recovery: Recovery) -> None:
    from ..proto.binary import read_weights
    from ..pruning.output import write
    from ..pruning.prune import prune

    net = output.read_current_net(arguments.model)
    weights = read_weights(arguments.weights)
    pruned = prune(net, weights, options, arguments.model, arguments.weights)
    for note in pruned.notes:
        print(f"note: {note}", file=sys.stderr)
    print(pruned.table)
    source = Path(arguments.model), Path(arguments.weights)
    solver = Path(arguments.solver_output) if arguments.solver_output else None
    for line in write(pruned, source, Path(arguments.output), solver, recovery):
        print(line)


def _in_rounds(arguments: Namespace, options: PruneOptions, recovery: Recovery) -> None:
    from ..recipes.prune_rounds import PruneRounds
    from ..recipes.runner import ExperimentRunner
    from ..solver.run import RunOptions

    runner = ExperimentRunner(output.say, RunOptions(gpu=arguments.gpu))
    source, stem = (Path(arguments.model), Path(arguments.weights)), Path(arguments.output)
    rounds = PruneRounds(source, options, stem, arguments.rounds, recovery, runner, output.say)
    net = rounds.run()
    print(rounds.table(net))
    print("wrote {} and {}".format(*net))


def _recovery(arguments: Namespace) -> Recovery:
    from ..pruning.recover import Recovery

    if arguments.rounds is not None and arguments.rounds < 1:
        raise UsageError(f"-rounds must be at least 1. Received: {arguments.rounds}")
    if arguments.rounds and arguments.solver_output:
        raise UsageError("-rounds trains itself: leave -solver_output out")
    if arguments.round_iter < 1:
        raise UsageError(f"-round_iter must be at least 1. Received: {arguments.round_iter}")
    return Recovery(iterations=arguments.round_iter)


def _options(arguments: Namespace) -> PruneOptions:
    from ..pruning.options import NetState, PruneOptions

    given = {name: getattr(arguments, name) for name in _TARGETS}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) > 1:
        raise UsageError(f"give one of {' and '.join(f'-{name}' for name in given)}")
    if not given and not arguments.layer_ratio:
        raise UsageError(f"say how much to remove, by -{', -'.join(_TARGETS)} or -layer_ratio")
    ((target, amount),) = given.items() or (("ratio", 0.0),)
    options = PruneOptions(
        target=target,
        amount=amount,
        criterion=arguments.criterion,
        scope=arguments.scope,
        floor=arguments.floor,
        multiple=arguments.multiple,
        layer_ratios=dict(_layer_ratio(text) for text in arguments.layer_ratio),
        exclude=flags.comma_list(arguments.exclude),
        iterations=arguments.iterations,
        seed=arguments.seed,
        measures=True,
        state=NetState(
            arguments.level,
            flags.comma_list(arguments.stage),
            flags.input_shapes(arguments.input_shape),
        ),
    )
    options.check()
    return options


def _layer_ratio(text: str) -> tuple[str, float]:
    name, _, share = text.rpartition("=")
    try:
        return name, float(share)
    except ValueError:
        raise UsageError(
            f"-layer_ratio takes a layer and its share, as conv1=0.3. Received: {text}"
        ) from None


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("prune", DESCRIPTION, EXAMPLE)
    flags.add(parser, "model", required=True, metavar="NET", help="the net's prototxt")
    flags.add(parser, "weights", required=True, metavar="FILE", help="its .caffemodel")
    flags.add(
        parser,
        "output",
        required=True,
        metavar="NAME",
        help="write NAME.prototxt and NAME.caffemodel",
    )
    for name, help_text in _TARGETS.items():
        flags.add(parser, name, type=float, help=help_text)
    flags.add(
        parser,
        "criterion",
        choices=["L1", "L2", "BN_SCALE", "TAYLOR", "RANDOM"],
        default="L1",
        help="what a channel is worth: the absolute sum or the length of its filters, the factor "
        "of the Scale behind it, |w * gradient| over training data, or a random number "
        "(default: L1)",
    )
    flags.add(
        parser,
        "scope",
        choices=["LAYER", "GLOBAL"],
        default="LAYER",
        help="the same share of each layer, or one ranking of all channels (default: LAYER)",
    )
    flags.add(
        parser,
        "floor",
        type=float,
        help="the least share of its channels that each layer keeps; one stays always (default: "
        "0.1 in a global ranking, else 0)",
    )
    flags.add(
        parser,
        "multiple",
        type=flags.int32,
        default=1,
        help="each layer keeps a multiple of so many channels: runtimes compute them in blocks, "
        "ONNX Runtime on a CPU in those of 8 or 16 (default: 1)",
    )
    flags.add(
        parser,
        "layer_ratio",
        action="append",
        default=[],
        metavar="LAYER=X",
        help="the share to remove of a layer, whatever the ratio is; may be repeated",
    )
    flags.add(
        parser, "exclude", metavar="LAYERS", help="layers that keep their channels, with commas"
    )
    flags.add(
        parser,
        "iterations",
        type=flags.int32,
        default=20,
        help="batches of training data for TAYLOR, and for the statistics of BatchNorm, which are "
        "taken once more at the end, 0: not (default: 20)",
    )
    flags.add(parser, "seed", type=flags.int32, default=0, help="of RANDOM (default: 0)")
    flags.add(
        parser,
        "solver_output",
        metavar="FILE",
        help="write a solver that distils from the unpruned net; the pruned net's own loss is left "
        'out there, by the stage "distil"',
    )
    flags.add(
        parser,
        "rounds",
        type=flags.int32,
        help="remove it in so many rounds, and distil from the unpruned net after each; stopped "
        "with Ctrl-C, the same command goes on",
    )
    flags.add(
        parser,
        "round_iter",
        type=flags.int32,
        default=938,
        help="iterations of a round's training, or of the solver's (default: 938)",
    )
    flags.gpu(parser, "train")
    flags.state(parser)
    flags.input_shape(parser)
    flags.own_code(parser)
    return parser
