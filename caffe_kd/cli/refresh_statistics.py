"""``refresh_statistics``: recomputes the averages that batch normalisation stores."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.errors import UsageError
from . import flags
from .command_parser import CommandParser
from .guard import guarded

SUMMARY = "recompute the averages of BatchNorm with fixed weights"
GROUP = "train"
EXAMPLE = (
    "-model prototxt/mnist/student_train_test.prototxt "
    "-weights output/mnist/student_iter_18760.caffemodel "
    "-output output/mnist/refreshed.caffemodel"
)
DESCRIPTION = """Runs batches of the net's TRAIN data through it with fixed weights and stores the
averages of their means and variances in each BatchNorm and BN, in place of those of the training,
during which the weights changed. Prints how far off the old ones were. With -test_iterations the
test data is run before and after."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    if arguments.iterations < 1 or arguments.test_iterations < 0:
        raise UsageError(
            "-iterations must be at least 1 and -test_iterations 0. Received: "
            f"{arguments.iterations} and {arguments.test_iterations}"
        )
    from ..logs.log import Log
    from ..net import load_net
    from ..net.statistics import refresh
    from ..net.weights import load_for_use
    from ..proto import caffe_pb2 as pb
    from ..proto.binary import write_weights, write_weights_hdf5
    from ..solver.device import choose_one_device
    from .test import score

    device, lines = choose_one_device(arguments.gpu)
    stages = flags.comma_list(arguments.stage)
    with Log() as log:
        log.info("\n".join(lines))
        phases = [pb.TRAIN, pb.TEST] if arguments.test_iterations else [pb.TRAIN]
        net, *tests = (load_net(arguments.model, p, arguments.level, stages) for p in phases)
        load_for_use(net, [arguments.weights], log)
        net.to_device(device, channels_last=False)
        for test in tests:
            test.to_device(device, channels_last=False)
            test.share_weights(net)
            log.info("Test data with the statistics of the training:")
            score(test, arguments.test_iterations, log)
        for change in refresh(net, arguments.iterations):
            log.info(str(change))
        for test in tests:
            log.info(f"Test data with the statistics of {arguments.iterations} batches:")
            score(test, arguments.test_iterations, log)
        write = write_weights_hdf5 if arguments.output.endswith(".h5") else write_weights
        write(arguments.output, net.param, net.weights())
        log.info(f"wrote {arguments.output}")
    return 0


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("refresh_statistics", DESCRIPTION, EXAMPLE)
    flags.add(parser, "model", required=True, metavar="NET", help="the net's prototxt")
    flags.add(parser, "weights", required=True, metavar="FILE", help="its .caffemodel")
    flags.add(parser, "output", required=True, metavar="FILE", help="the file to write")
    flags.add(parser, "iterations", type=flags.int32, default=100, help="batches (default: 100)")
    flags.add(
        parser,
        "test_iterations",
        type=flags.int32,
        default=0,
        help="batches of test data to run before and after (default: 0)",
    )
    flags.gpu(parser)
    flags.state(parser)
    flags.own_code(parser)
    return parser
