"""``from_onnx``: turns an ONNX model into a net and its weights."""

from __future__ import annotations

from collections.abc import Sequence

from . import flags
from .command_parser import CommandParser
from .guard import guarded
from .output import say

SUMMARY = "turn an ONNX model into a net and its weights"
GROUP = "train"
EXAMPLE = "-model resnet.onnx -output output/resnet"
DESCRIPTION = """Turns an ONNX model into a deploy net, a train/test net and their weights. Names
are kept. The net is checked at once: its outputs may differ from those of ONNX Runtime by at most
1e-4 of their greatest value, on random values and on those of -input. Nodes that have no layers are
an error that lists them all."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    from ..import_onnx.pipeline import import_model

    done = import_model(
        arguments.model,
        arguments.output,
        for_caffe=getattr(arguments, "for") == "caffe",
        shapes=flags.input_shapes(arguments.input_shape),
        given=arguments.input,
    )
    say(
        f"wrote {', '.join(map(str, done.files))}: {done.layers} layers of {done.nodes} nodes",
        f"ONNX Runtime and the net agree on {done.report.samples} samples: greatest difference "
        f"{done.report.difference:.2e}, greatest value {done.report.value:.4g}",
    )
    return 0


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("from_onnx", DESCRIPTION, EXAMPLE)
    flags.add(parser, "model", required=True, metavar="FILE", help="the .onnx file")
    flags.add(
        parser,
        "output",
        required=True,
        metavar="NAME",
        help="write NAME_deploy.prototxt, NAME_train_test.prototxt and NAME.caffemodel",
    )
    flags.add(
        parser,
        "for",
        choices=["caffe"],
        help="use only the layer types of BVLC Caffe, for it and for vendors' tools",
    )
    flags.add(
        parser,
        "input",
        action="append",
        default=[],
        metavar="FILE",
        help="check on these values too: .npy, .npz by the inputs' names, or an ONNX tensor (.pb)",
    )
    flags.input_shape(parser)
    return parser
