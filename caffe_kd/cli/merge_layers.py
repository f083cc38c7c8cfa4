"""``merge_layers``: folds BatchNorm and Scale into the layers before them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import flags, output
from .command_parser import CommandParser
from .guard import guarded

SUMMARY = "fold BatchNorm and Scale into the layers before them"
GROUP = "deploy"
EXAMPLE = (
    "-model prototxt/mnist/student_train_test.prototxt "
    "-weights output/mnist/student_iter_18760.caffemodel "
    "-output output/mnist/merged"
)
DESCRIPTION = """Folds each BatchNorm and Scale into the Convolution or InnerProduct before it, in
net and weights. In phase TEST the net's outputs stay the same, with fewer layers; it is for use and
for training with quantization { }, not for other training. Layers that cannot be folded stay, and
the reason is printed."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    from ..export.merge import merge
    from ..proto import text
    from ..proto.binary import read_weights, write_weights

    net = output.read_current_net(arguments.model)
    merged = merge(net, read_weights(arguments.weights), arguments.weights)
    output.say_to_stderr(*merged.notes)
    stem = Path(arguments.output)
    model, weights = (stem.with_name(f"{stem.name}.{e}") for e in ("prototxt", "caffemodel"))
    text.write(model, merged.net)
    write_weights(weights, merged.net, merged.weights)
    print(f"wrote {model} and {weights}: {len(merged.net.layer)} layers of {len(net.layer)}")
    return 0


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("merge_layers", DESCRIPTION, EXAMPLE)
    flags.add(parser, "model", required=True, metavar="NET", help="the net's prototxt")
    flags.add(parser, "weights", required=True, metavar="FILE", help="its .caffemodel")
    flags.add(
        parser,
        "output",
        required=True,
        metavar="NAME",
        help="write NAME.prototxt and NAME.caffemodel",
    )
    return parser
