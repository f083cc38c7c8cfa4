"""``upgrade_net_proto_text``: writes a net's prototxt of any year in the current format."""

from __future__ import annotations

from collections.abc import Sequence

from . import upgrade
from .command_parser import CommandParser
from .guard import guarded

SUMMARY = "write an old net's prototxt in the current format"
GROUP = "caffe"
EXAMPLE = "old.prototxt new.prototxt"
DESCRIPTION = """Reads a net's prototxt of any year and writes it in the current format: `layers`
become `layer`, types become strings, padding layers fold into convolutions and poolings, input
fields become an Input layer."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return upgrade.run(parser().parse_args(argv), _kind)


def parser() -> CommandParser:
    """Return the command's parser."""
    return upgrade.new_parser("upgrade_net_proto_text", DESCRIPTION, EXAMPLE)


def _kind() -> upgrade.Kind:
    from ..proto import caffe_pb2 as pb
    from ..proto import text
    from ..proto.upgrade import upgrade_net

    return upgrade.Kind(
        "NetParameter text proto",
        lambda path: text.read(path, pb.NetParameter()),
        upgrade_net,
        text.write,
    )
