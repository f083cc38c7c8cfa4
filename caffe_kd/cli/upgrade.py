"""What the three upgrading commands share: ``COMMAND IN OUT``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from . import common


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


def run(name: str, description: str, argv: Sequence[str] | None, kind: Callable[[], Kind]) -> int:
    """Read IN, upgrade it, write OUT; return the exit status.

    As in the original, a field that has no successor is told and left out, OUT is written, and
    the status is 1; and a file of the current format is written as it is.

    Args:
        name: the command.
        description: what it does, for ``-h``.
        argv: its arguments.
        kind: makes the kind of file, and imports what that needs.
    """
    parser = common.parser(name, description)
    parser.add_argument("input", metavar="IN", help="the file to upgrade")
    parser.add_argument("output", metavar="OUT", help="the file to write; may be the same")
    arguments = parser.parse_args(argv)
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
