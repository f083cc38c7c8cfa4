"""``make_deploy``: writes the deploy net of a train/test net."""

from __future__ import annotations

from collections.abc import Sequence

from . import flags, output
from .command_parser import CommandParser
from .guard import guarded

SUMMARY = "write the deploy net of a train/test net"
GROUP = "deploy"
EXAMPLE = "-model prototxt/mnist/student_train_test.prototxt -output output/mnist/deploy.prototxt"
DESCRIPTION = """Turns a train/test net of any year into its deploy form, as prototxt: the layers
that lead from the data to the predictions in phase TEST, or to the blobs of -outputs. Data layers
become Input layers of the samples' shape, for which the data is opened, or of the shape that
-input_shape gives; labels, losses and accuracies are left out."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    from ..export.deploy import deploy

    net = output.read_current_net(arguments.model)
    deployed = deploy(net, arguments.model, flags.deploy_options(arguments, net))
    output.put_prototxt(deployed, arguments.output)
    return 0


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("make_deploy", DESCRIPTION, EXAMPLE)
    flags.add(parser, "model", required=True, metavar="NET", help="the net's prototxt")
    flags.add(parser, "output", metavar="FILE", help="write there instead of to stdout")
    flags.deploy(parser)
    flags.own_code(parser)
    return parser
