"""``quantize``: writes a trained net as an int8 ONNX model and compares it with the float one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import UsageError
from . import flags
from .command_parser import CommandParser
from .guard import guarded

if TYPE_CHECKING:
    from ..quantization import Quantized

SUMMARY = "write a trained net as an int8 ONNX model"
GROUP = "deploy"
EXAMPLE = (
    "-model prototxt/mnist/student_train_test.prototxt "
    "-weights output/mnist/student_iter_18760.caffemodel "
    "-output output/mnist/student_int8.onnx -method AUTO"
)
DESCRIPTION = """Quantises a net after its training: weights to int8 and, in layers with weights and
what lies between them, values to uint8. The last outputs stay float. Batches of the net's TRAIN
data, transformed as in TEST, show which values each blob takes. Prints the range of each blob, then
float against int8: bytes, time, errors and outputs that differ, on the net's TEST data."""
_METHODS = ("MINMAX", "MSE", "PERCENTILE", "ENTROPY", "AUTO", "GIVEN")
_OF_RANGES = ("method", "symmetric", "ranges", "table", "prototxt", "percentile")
_PERCENT = 99.99


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    _check(arguments)
    from ..net import read_net
    from ..quantization import quantize

    net = read_net(arguments.model)
    options = _options(arguments, net)
    result = quantize(net, arguments.model, arguments.weights, arguments.output, options)
    _print(result)
    _write(result, arguments)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Refuse flags whose values or company make no sense.

    Raises:
        UsageError: some do not.
    """
    if arguments.iterations < 1 or arguments.test_iterations < 0:
        raise UsageError(
            "-iterations must be at least 1 and -test_iterations 0. Received: "
            f"{arguments.iterations} and {arguments.test_iterations}"
        )
    if arguments.percentile is not None and not 0 < arguments.percentile <= 100:
        raise UsageError(
            f"-percentile must be above 0 and at most 100. Received: {arguments.percentile:g}"
        )
    given = [f"-{name}" for name in _OF_RANGES if getattr(arguments, name) not in (None, False)]
    if arguments.dynamic and given:
        raise UsageError(f"{', '.join(given)}: with -dynamic ranges are found as the model runs")
    for flag, method in (("ranges", "GIVEN"), ("percentile", "PERCENTILE")):
        if getattr(arguments, flag) is not None and arguments.method not in (method, "AUTO"):
            raise UsageError(f"-{flag} is for -method {method}")


def _options(arguments: argparse.Namespace, net: Any) -> Any:
    from ..quantization import Method, Options

    return Options(
        method=Method[arguments.method or "MINMAX"],
        dynamic=arguments.dynamic,
        per_channel=arguments.per_channel,
        symmetric=arguments.symmetric,
        percent=_PERCENT if arguments.percentile is None else arguments.percentile,
        iterations=arguments.iterations,
        test_iterations=arguments.test_iterations,
        exclude=flags.comma_list(arguments.exclude),
        ranges=arguments.ranges,
        evaluate=arguments.evaluate,
        preprocess=arguments.preprocess,
        deploy=flags.deploy_options(arguments, net),
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )


def _print(result: Quantized) -> None:
    from ..quantization import report

    _print_folded(result.source.folded)
    parts = [
        report.trial_table(result.trials, result.method) if result.trials else [],
        report.range_table(result.ranges) if result.ranges else [],
        report.comparison_table(result),
    ]
    print("\n\n".join("\n".join(part) for part in parts if part))
    slower = report.slower_sentence(result.latencies)
    if slower:
        print(slower)
    if not any(found.name.endswith("TEST") for found in result.evaluations):
        print("note: the net has no TEST data, so nothing was compared on it", file=sys.stderr)


def _print_folded(notes: Sequence[str]) -> None:
    """Print how many layers were folded, and which could not be."""
    stay = [note for note in notes if " stays: " in note]
    for note in stay:
        print(f"note: {note}", file=sys.stderr)
    if len(notes) > len(stay):
        print(
            f"note: {len(notes) - len(stay)} BatchNorm and Scale layers are part of the layers "
            "before them now",
            file=sys.stderr,
        )


def _write(result: Quantized, arguments: argparse.Namespace) -> None:
    from ..core.files import write_atomically
    from ..proto import text
    from ..proto.binary import write_weights
    from ..quantization import chips

    written = [str(result.path)]
    if arguments.table:
        write_atomically(arguments.table, chips.ncnn_table(result).encode())
        written.append(arguments.table)
    if arguments.prototxt:
        net, path = chips.intel_net(result), Path(arguments.prototxt)
        text.write(path, net)
        written.append(str(path))
        if result.source.folded:  # the net has other weights than before
            weights = path.with_suffix(".caffemodel")
            write_weights(weights, net, result.source.net.weights())
            written.append(str(weights))
    print(f"wrote {', '.join(written)}")


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("quantize", DESCRIPTION, EXAMPLE)
    flags.add(parser, "model", required=True, metavar="NET", help="the net's prototxt")
    flags.add(parser, "weights", required=True, metavar="FILE", help="its .caffemodel")
    flags.add(parser, "output", required=True, metavar="FILE", help="the .onnx file to write")
    flags.add(
        parser,
        "method",
        choices=_METHODS,
        help="how far the values of a blob are represented: to the greatest; to where the mean "
        "square of the error, or the KL divergence of the distribution, is least; as far as "
        "-percentile of them go; by the method that serves held-out samples best; as -ranges or "
        "the net says (default: MINMAX)",
    )
    flags.add(
        parser, "dynamic", action="store_true", help="find ranges as the model runs, not before"
    )
    flags.add(
        parser, "per_channel", action="store_true", help="a scale of weights per output channel"
    )
    flags.add(parser, "symmetric", action="store_true", help="values int8 around 0, not uint8")
    flags.add(parser, "percentile", type=float, help=f"for PERCENTILE (default: {_PERCENT:g})")
    flags.add(
        parser,
        "iterations",
        type=flags.int32,
        default=8,
        help="batches that calibrate; as many more are held out (default: 8)",
    )
    flags.add(
        parser,
        "test_iterations",
        type=flags.int32,
        default=0,
        help="batches of TEST data to compare on (default: 0, all)",
    )
    flags.add(parser, "exclude", metavar="LAYERS", help="layers that stay float, by commas")
    flags.add(
        parser,
        "ranges",
        metavar="FILE",
        help="for GIVEN: ncnn's table, or the table that this command prints (default: Intel's "
        "scale_in and scale_out in the net)",
    )
    flags.add(
        parser,
        "evaluate",
        action="append",
        default=[],
        metavar="NET",
        help="a prototxt whose TEST data is compared on too; may be given several times",
    )
    flags.add(
        parser,
        "preprocess",
        action="store_true",
        help="the model takes uint8 pixels (N, C, H, W) and holds the data layer's mean and scale",
    )
    flags.add(parser, "table", metavar="FILE", help="write ncnn's table of scales there")
    flags.add(
        parser,
        "prototxt",
        metavar="FILE",
        help="write the deployed net with Intel's quantization_param there",
    )
    flags.deploy(parser)
    flags.own_code(parser)
    return parser
