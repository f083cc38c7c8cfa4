"""``time``: measures each layer's forward and backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import UsageError
from . import flags
from .command_parser import CommandParser
from .guard import guarded

if TYPE_CHECKING:
    from ..logs.log import Log
    from ..pycaffe.graph import Graph

SUMMARY = "measure each layer's forward and backward pass"
GROUP = "caffe"
EXAMPLE = "-model prototxt/mnist/student_train_test.prototxt -iterations 20"
DESCRIPTION = """Runs a net forward and backward, layer by layer, and logs how long each layer takes
on average, as Caffe's `caffe time` does. With -profile, every operator of these passes goes into a
trace for chrome://tracing or ui.perfetto.dev; the times are longer then."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    if arguments.iterations < 1:
        raise UsageError(f"-iterations must be at least 1. Received: {arguments.iterations}")
    from ..logs.log import Log
    from ..net import load_net
    from ..net.weights import load_for_use
    from ..proto import caffe_pb2 as pb
    from ..pycaffe.graph import Graph
    from ..solver.device import choose_one_device

    device, lines = choose_one_device(arguments.gpu)
    with Log() as log:
        log.info("\n".join(lines))
        phase = pb.Phase.Value(arguments.phase)
        stages = flags.comma_list(arguments.stage)
        net = load_net(arguments.model, phase, arguments.level, stages)
        # The time a layer takes does not depend on its weights.
        load_for_use(net, flags.comma_list(arguments.weights), log, needed=False)
        net.to_device(device, channels_last=False)
        net.context.writes_files = False
        watch = StopWatch(Graph(net))
        if arguments.profile:
            profile(watch, arguments.iterations, Path(arguments.profile), log)
        else:
            measure(watch, arguments.iterations, log)
    return 0


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("time", DESCRIPTION, EXAMPLE)
    flags.add(
        parser,
        "model",
        need="Need a model definition to time",
        metavar="FILE",
        help="the net's prototxt",
    )
    flags.add(parser, "weights", metavar="FILES", help="caffemodels, separated by commas")
    flags.add(parser, "iterations", type=flags.int32, default=50, help="passes (default: 50)")
    flags.gpu(parser)
    flags.add(
        parser,
        "phase",
        choices=["TRAIN", "TEST"],
        default="TRAIN",
        help="the net's phase (default: TRAIN)",
    )
    flags.state(parser)
    flags.add(parser, "profile", metavar="FILE", help="write a Chrome trace there, as .json")
    flags.glog(parser)
    flags.idle(parser, "solver", "snapshot", "sigint_effect", "sighup_effect")
    flags.idle(parser, "log_dir")
    flags.own_code(parser)
    return parser


class StopWatch:
    """Adds up how long a net's layers take, forward and backward.

    Each layer's time ends when its work on the device is done. In a profile each layer's name spans
    its operators.

    Attributes:
        forward: milliseconds of each layer's forward passes.
        backward: milliseconds of each layer's backward passes.
    """

    def __init__(self, graph: Graph) -> None:
        from torch.profiler import record_function

        from ..pycaffe.timer import Timer

        graph.visit_all()
        self.graph = graph
        self.forward = [0.0] * len(graph.nodes)
        self.backward = [0.0] * len(graph.nodes)
        self._timer = Timer()
        self._mark: Any = None

        def before(direction: str, index: int) -> None:
            self._mark = record_function(f"{graph.nodes[index].name} {direction}")
            self._mark.__enter__()
            self._timer.start()

        def after(times: list[float], index: int) -> None:
            times[index] += self._timer.ms
            self._mark.__exit__(None, None, None)

        graph.before_forward.append(lambda index: before("forward", index))
        graph.after_forward.append(lambda index: after(self.forward, index))
        graph.before_backward.append(lambda index: before("backward", index))
        graph.after_backward.append(lambda index: after(self.backward, index))

    def run_forward(self) -> float:
        """Run all layers; return the loss."""
        return self.graph.forward(0, len(self.graph.nodes) - 1)

    def run_backward(self) -> None:
        """Run back through all layers."""
        self.graph.clear_param_diffs()
        self.graph.backward(len(self.graph.nodes) - 1, 0)


def measure(watch: StopWatch, iterations: int, log: Log) -> None:
    """Run the passes and log their times, in Caffe's lines."""
    from ..pycaffe.timer import Timer

    log.info("Performing Forward")
    log.info(f"Initial loss: {watch.run_forward():g}")
    log.info("Performing Backward")
    watch.run_backward()
    # The first passes allocate memory and choose algorithms: they do not count.
    count = len(watch.forward)
    watch.forward[:] = watch.backward[:] = [0.0] * count
    log.info("*** Benchmark begins ***")
    log.info(f"Testing for {iterations} iterations.")
    total = Timer()
    total.start()
    forward = backward = 0.0
    for iteration in range(1, iterations + 1):
        there, back = Timer(), Timer()
        there.start()
        watch.run_forward()
        forward += there.ms
        back.start()
        watch.run_backward()
        backward += back.ms
        log.info(f"Iteration: {iteration} forward-backward time: {there.ms + back.ms:g} ms.")
    elapsed = total.ms
    log.info("Average time per layer: ")
    for index, node in enumerate(watch.graph.nodes):
        log.info(f"{node.name:>10s}\tforward: {watch.forward[index] / iterations:g} ms.")
        log.info(f"{node.name:>10s}\tbackward: {watch.backward[index] / iterations:g} ms.")
    log.info(f"Average Forward pass: {forward / iterations:g} ms.")
    log.info(f"Average Backward pass: {backward / iterations:g} ms.")
    log.info(f"Average Forward-Backward: {elapsed / iterations:g} ms.")
    log.info(f"Total Time: {elapsed:g} ms.")
    log.info("*** Benchmark ends ***")


def profile(watch: StopWatch, iterations: int, path: Path, log: Log) -> None:
    """Measure under torch's profiler, and write its trace."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    from ..core.files import replacing

    activities = [ProfilerActivity.CPU]
    if watch.graph.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with replacing(path) as temporary:
        with profiler(activities=activities) as trace:
            measure(watch, iterations, log)
        trace.export_chrome_trace(str(temporary))
    log.info(f"Trace: {path}")
