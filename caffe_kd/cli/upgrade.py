"""What the three upgrading commands share: ``COMMAND IN OUT``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import flags
from .command_parser import CommandParser


@dataclass
class Kind:
    """A kind of file to upgrade.

    Attributes:
        what: what the file holds, for the log.
        read: reads a file into a message.
        upgrade: as ``upgrade_net`` and ``upgrade_solver``.
        write: writes the message.
    """

    what: str
    read: Callable[[str], Any]
    upgrade: Callable[..., Any]
    write: Callable[[str, Any], None]


def new_parser(name: str, description: str, example: str) -> CommandParser:
    """Return the parser of a command that upgrades IN to OUT."""
    parser = CommandParser(name, description, example)
    parser.add_argument("input", type=flags.prototxt, metavar="IN", help="the file to upgrade")
    parser.add_argument("output", metavar="OUT", help="the file to write; may be the same")
    return parser


def run(arguments: argparse.Namespace, kind: Callable[[], Kind]) -> int:
    """Read IN, upgrade it, write OUT; return the exit status.

    As in Caffe, a field that has no successor is reported and left out, OUT is written, and the
    status is 1; and a file of the current format is written as it is.

    Args:
        arguments: IN and OUT.
        kind: returns the kind of file, and imports what that needs.
    """
    from ..logs.log import Log
    from ..proto.upgrade import Notes

    file = kind()
    with Log() as log:
        message = file.read(arguments.input)
        notes = Notes()
        upgraded = file.upgrade(message, arguments.input, notes)
        if upgraded is message:
            log.info(f"File already in latest proto format: {arguments.input}")
        for line in notes.lines:
            log.info(line)
        if notes.problems:
            log.error("Encountered error(s) while upgrading; see details above.")
        file.write(arguments.output, upgraded)
        log.info(f"Wrote upgraded {file.what} to {arguments.output}")
    return 1 if notes.problems else 0
