"""``upgrade_net_proto_binary``: writes a caffemodel of any year in the current format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.errors import ParseError
from . import upgrade
from .command_parser import CommandParser
from .guard import guarded

SUMMARY = "write an old caffemodel in the current format"
GROUP = "caffe"
EXAMPLE = "old.caffemodel new.caffemodel"
DESCRIPTION = """Reads a .caffemodel of any year and writes it in the current format. Training and
export read old ones as they are; this is for other programs."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return upgrade.run(parser().parse_args(argv), _kind)


def parser() -> CommandParser:
    """Return the command's parser."""
    return upgrade.new_parser("upgrade_net_proto_binary", DESCRIPTION, EXAMPLE)


def _kind() -> upgrade.Kind:
    from ..proto.message import read_net, write_net

    return upgrade.Kind("NetParameter binary proto", read_net, _upgrade, write_net)


def _upgrade(net: Any, name: str, notes: Any) -> Any:
    from ..proto.upgrade import upgrade_net

    try:
        return upgrade_net(net, name, notes)
    except UnicodeDecodeError:
        raise ParseError("has a layer or blob whose name is not UTF-8", name) from None
