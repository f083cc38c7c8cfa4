"""``make_deploy``: writes the net that is deployed, from the one that was trained."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..errors import NetError
from . import common

DESCRIPTION = """Turns a train/test net of any year into its deploy form, as prototxt: what leads
from the data to the predictions in phase TEST. Data layers become Input layers of the records'
shape, for which the data is opened; labels, losses and accuracies go."""


@common.guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = common.parser("make_deploy", DESCRIPTION)
    common.flag(parser, "model", required=True, metavar="NET", help="the net's prototxt")
    common.flag(parser, "output", metavar="FILE", help="write there instead of to stdout")
    common.python_layers_flag(parser)
    arguments = parser.parse_args(argv)
    from ..export.deploy import deploy
    from ..net import read_net
    from ..proto import text
    from ..proto.upgrade import Notes

    notes = Notes()
    net = read_net(arguments.model, notes)
    for line in notes.lines:
        print(line, file=sys.stderr)
    if notes.problems:
        raise NetError("has fields without a successor, see above; remove them", arguments.model)
    deployed = deploy(net, arguments.model)
    if arguments.output:
        text.write(arguments.output, deployed)
        print(f"wrote {arguments.output}", file=sys.stderr)
    else:
        common.print_prototxt(deployed)
    return 0
