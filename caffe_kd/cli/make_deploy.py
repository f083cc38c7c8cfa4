"""``make_deploy``: writes the net that is deployed, from the one that was trained."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from . import common

DESCRIPTION = """Turns a train/test net of any year into its deploy form, as prototxt: what leads
from the data to the predictions in phase TEST, or to the blobs of -outputs. Data layers become
Input layers of the records' shape, for which the data is opened, or of the shape that -input_shape
gives; labels, losses and accuracies go."""


@common.guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    from ..export.deploy import deploy

    net = common.read_current_net(arguments.model)
    deployed = deploy(net, arguments.model, common.deploy_options(arguments, net))
    common.put_prototxt(deployed, arguments.output)
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = common.new_parser("make_deploy", DESCRIPTION)
    common.flag(parser, "model", required=True, metavar="NET", help="the net's prototxt")
    common.flag(parser, "output", metavar="FILE", help="write there instead of to stdout")
    common.deploy_flags(parser)
    common.user_code_flags(parser)
    return parser
