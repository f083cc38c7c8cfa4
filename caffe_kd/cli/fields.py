"""``fields``: prints the fields of a message of the schema."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.errors import UsageError, did_you_mean
from . import flags
from .command_parser import CommandParser
from .guard import guarded

SUMMARY = "list the fields of a message of the schema"
GROUP = "check"
EXAMPLE = "pooling_param"
DESCRIPTION = """Prints the fields of a message with their type, number in binary files, default and
comment. The message is given by its name (PoolingParameter, SolverParameter, LayerParameter), or as
a layer's block (pooling_param)."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)

    from ..proto import describe

    message = describe.message_of(arguments.message)
    if message is None:
        hint = did_you_mean(arguments.message, describe.names())
        raise UsageError(f"there is no message '{arguments.message}'.{hint}")
    print(f"message {message.name}")
    for line in describe.lines(message):
        print(f"  {line}")
    return 0


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("fields", DESCRIPTION, EXAMPLE)
    parser.add_argument("message", metavar="MESSAGE", help="a message or a layer's block")
    flags.layers(parser)
    return parser
