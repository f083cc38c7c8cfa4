"""``upgrade_net_proto_text``: writes a net's prototxt of any year in the current format."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from . import common, upgrade

DESCRIPTION = """Reads a net's prototxt of any year and writes it in the current format: `layers`
become `layer`, types become strings, padding layers fold into convolutions and poolings, input
fields become an Input layer."""


@common.guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return upgrade.run(parser().parse_args(argv), _kind)


def parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    return upgrade.new_parser("upgrade_net_proto_text", DESCRIPTION)


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
