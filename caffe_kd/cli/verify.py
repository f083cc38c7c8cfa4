"""``verify``: compares a net's blobs with recorded ones, layer by layer, or records them."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..core.errors import UsageError
from ..core.tables import text_table
from . import flags
from .command_parser import CommandParser
from .guard import guarded
from .output import say

if TYPE_CHECKING:
    from ..verify.compare import Comparison

SUMMARY = "compare a net's blobs with recorded ones, layer by layer"
GROUP = "check"
EXAMPLE = (
    "-model output/mnist/deploy.prototxt "
    "-weights output/mnist/student_iter_18760.caffemodel "
    "-expected output/mnist/expected.npz"
)
DESCRIPTION = """Runs a net in phase TEST on recorded inputs, compares every recorded blob with what
the net computes, in the order of the layers, and names the first layer that differs. A recording is
an .npz file: in/<blob> holds an input, out/<blob> (or the plain name) any other blob, and
<blob>/<layer> the output of a layer whose top later layers change in place. With -record the net
itself is recorded, to be verified on another machine or in another version."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 1 if a blob differs."""
    arguments = parser().parse_args(argv)
    _check(arguments)
    if arguments.record:
        return _record(arguments)
    from ..verify.compare import build, compare
    from ..verify.hints import hints
    from ..verify.recording import read_recording

    recording = read_recording(arguments.expected)
    inputs = _inputs(arguments, recording)
    net, notes = build(arguments.model, *_build_arguments(arguments, inputs))
    bounds = {name: getattr(arguments, name) for name in ("rtol", "atol")}
    given = {name: value for name, value in bounds.items() if value is not None}
    comparison = compare(net, recording, inputs, **given)
    say(*(f"note: {note}" for note in [*notes, *comparison.notes]))
    _print(comparison)
    if comparison.first is None:
        return 0
    _print_first(comparison, hints(net, comparison))
    return 1


def _check(arguments: argparse.Namespace) -> None:
    if bool(arguments.expected) == bool(arguments.record):
        raise UsageError("Give one of -expected ACTS.npz, to compare, and -record ACTS.npz")
    for name in ("rtol", "atol"):
        value = getattr(arguments, name)
        if value is not None and not (value >= 0 and math.isfinite(value)):
            raise UsageError(f"-{name} must be at least 0. Received: {value:g}")


def _build_arguments(arguments: argparse.Namespace, inputs: Any) -> tuple[Any, ...]:
    weights = flags.comma_list(arguments.weights)
    return weights, inputs, arguments.level, flags.comma_list(arguments.stage)


def _inputs(arguments: argparse.Namespace, recording: Any) -> Any:
    """Return the values of the net's inputs, from -inputs or from the recording."""
    from ..verify.compare import input_names, inputs_of
    from ..verify.recording import read_recording

    given = read_recording(arguments.inputs) if arguments.inputs else recording
    return inputs_of(given, input_names(arguments.model))


def _record(arguments: argparse.Namespace) -> int:
    """Record the net, on given inputs or on random ones of the shapes it names."""
    from ..verify.compare import build, random_inputs, record
    from ..verify.recording import write_recording

    if arguments.inputs:
        inputs = _inputs(arguments, None)
    else:
        inputs = random_inputs(arguments.model)
        say(f"inputs: standard normal numbers, for {', '.join(inputs)}")
    net, notes = build(arguments.model, *_build_arguments(arguments, inputs))
    say(*(f"note: {note}" for note in notes))
    values = record(net, inputs)
    write_recording(arguments.record, values)
    say(f"{arguments.record}: {len(values)} blobs of {len(net.nodes)} layers")
    return 0


def _print(comparison: Comparison) -> None:
    head = ("blob", "layer", "shape", "difference", "scale", "verdict")
    rows = [
        (
            line.key,
            f"{line.node.layer.name} ({line.node.layer.type})",
            "x".join(map(str, line.got.shape)) or "1",
            f"{line.difference:.2e}",
            f"{line.scale:.4g}",
            line.verdict,
        )
        for line in comparison.lines
    ]
    say(*text_table([head, *rows], right=()))
    agreeing = sum(line.agrees for line in comparison.lines)
    say(f"{agreeing} of {len(rows)} recorded blobs agree")


def _print_first(comparison: Comparison, hints: Sequence[str]) -> None:
    line = comparison.first
    assert line is not None
    layer = line.node.layer
    position = f"{layer.proto.source_line}: " if layer.proto.source_line else ""
    say(f"first difference: {position}layer '{layer.name}' ({layer.type}), blob '{line.key}'")
    say(*(f"  {hint}" for hint in hints))


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("verify", DESCRIPTION, EXAMPLE)
    flags.add(
        parser,
        "model",
        need="Need a model definition",
        metavar="NET",
        help="the net's prototxt",
    )
    flags.add(parser, "weights", metavar="FILES", help="caffemodels, separated by commas")
    flags.add(parser, "expected", metavar="NPZ", help="the recording to compare with")
    flags.add(parser, "record", metavar="NPZ", help="write the net's own recording there")
    flags.add(parser, "inputs", metavar="NPZ", help="take the inputs from this recording")
    flags.add(
        parser,
        "rtol",
        type=float,
        help="allowed difference: this times the blob's greatest recorded value, plus -atol "
        "(default: 1e-4)",
    )
    flags.add(parser, "atol", type=float, help="see -rtol (default: 1e-5)")
    flags.state(parser)
    flags.own_code(parser)
    return parser
