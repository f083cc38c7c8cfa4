"""``test``: scores a net's weights on its test data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..core.errors import NetError, UsageError, WeightsError
from . import flags
from .command_parser import CommandParser
from .guard import guarded

if TYPE_CHECKING:
    from ..logs.log import Log
    from ..net import Net

SUMMARY = "score a net's weights on its test data"
GROUP = "caffe"
EXAMPLE = (
    "-model prototxt/mnist/student_train_test.prototxt "
    "-weights output/mnist/student_iter_18760.caffemodel "
    "-iterations 100"
)
DESCRIPTION = """Runs batches of test data through a net and reports the mean of its outputs."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    if arguments.iterations < 1:
        raise UsageError(f"-iterations must be at least 1. Received: {arguments.iterations}")
    from ..logs.log import Log
    from ..net import load_net, non_finite, read_net
    from ..net.weights import load_for_use
    from ..proto.filter import idle_stages
    from ..proto.upgrade import Notes
    from ..solver.callbacks.debug_info import DebugInfo
    from ..solver.device import choose_one_device

    device, lines = choose_one_device(arguments.gpu)
    with Log() as log:
        log.info("\n".join(lines))
        stages = flags.comma_list(arguments.stage)
        notes = Notes()
        net = load_net(arguments.model, level=arguments.level, stages=stages, notes=notes)
        for note in notes.lines:
            log.info(note)
        for sentence in idle_stages(read_net(arguments.model), stages):
            log.warning(f"{arguments.model}: {sentence}")
        net.context.notify = log.info
        load_for_use(net, flags.comma_list(arguments.weights), log)
        net.to_device(device, channels_last=False)
        if net.param.debug_info:
            DebugInfo(net, log.info)
        where = non_finite.in_parameters([net])
        if where is not None:
            raise WeightsError(f"{arguments.weights}: {where}: nothing can be scored by them")
        log.info(f"Running for {arguments.iterations} iterations.")
        score(net, arguments.iterations, log)
    return 0


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("test", DESCRIPTION, EXAMPLE)
    flags.add(
        parser,
        "model",
        need="Need a model definition to score",
        metavar="FILE",
        help="the net's prototxt",
    )
    flags.add(
        parser,
        "weights",
        need="Need model weights to score",
        metavar="FILES",
        help="caffemodels, separated by commas",
    )
    flags.add(parser, "iterations", type=flags.int32, default=50, help="batches (default: 50)")
    flags.gpu(parser)
    flags.state(parser)
    flags.glog(parser)
    flags.idle(parser, "solver", "phase", "snapshot", "sigint_effect", "sighup_effect")
    flags.idle(parser, "log_dir")
    flags.own_code(parser)
    return parser


def score(net: Net, iterations: int, log: Log) -> dict[str, list[float]]:
    """Run batches through a net and log its outputs and their means, which are returned.

    Raises:
        NetError: an output is NaN or was made of NaN.
    """
    import torch

    from ..net.non_finite import OutputGuard, first_in

    guard, where = OutputGuard(net), None

    sums: dict[str, list[float]] = {}
    loss = 0.0
    with torch.no_grad():
        for index in range(iterations):
            objective = net()
            loss += float(objective) if objective is not None else 0.0
            guard.add()
            if where is None and guard.outputs_with_nan():
                where = f"in batch {index} NaN first appears {first_in(net)}"
            for name in net.outputs:
                values = net.blobs[name].flatten().tolist()
                for value in values:
                    log.info(f"Batch {index}, {name} = {value:g}")
                before = sums.get(name, [0.0] * len(values))
                sums[name] = [a + b for a, b in zip(before, values, strict=True)]
    log.info(f"Loss: {loss / iterations:g}")
    means = {name: [value / iterations for value in values] for name, values in sums.items()}
    for name, values in means.items():
        weight = net.loss_weights.get(name, 0.0)
        for value in values:
            note = f" (* {weight:g} = {weight * value:g} loss)" if weight else ""
            log.info(f"{name} = {value:g}{note}")
    if where is not None:
        outputs = ", ".join(guard.outputs_with_nan())
        raise NetError(f"{outputs}: no score, for {where}")
    return means
