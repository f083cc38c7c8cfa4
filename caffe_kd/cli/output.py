"""What several commands print: sentences, prototxt, and notes about an old net."""

from __future__ import annotations

import sys
from typing import Any

from ..core.errors import NetError, printable


def say(*lines: str) -> None:
    """Print lines at once, their control characters escaped, for names come from files."""
    for line in lines:
        print(printable(line), flush=True)


def say_to_stderr(*lines: str) -> None:
    """Print lines to stderr, as ``say`` does to stdout."""
    for line in lines:
        print(printable(line), file=sys.stderr)


def print_prototxt(message: Any) -> None:
    """Print a message as prototxt, with escapes where stdout cannot encode a character."""
    from ..proto import text

    content = text.to_text(message)
    try:
        content.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        content = text.to_text(message, as_utf8=False)
    print(content, end="")


def put_prototxt(message: Any, path: str | None) -> None:
    """Write a message as prototxt to a file, or to stdout where none is named."""
    from ..proto import text

    if path:
        text.write(path, message)
        say_to_stderr(f"wrote {path}")
    else:
        print_prototxt(message)


def read_current_net(path: str) -> Any:
    """Read a net's prototxt of any year; print on stderr what was upgraded.

    Raises:
        NetError: a field has no successor.
    """
    from ..net import read_net
    from ..proto.upgrade import Notes

    notes = Notes()
    net = read_net(path, notes)
    say_to_stderr(*notes.lines)
    if notes.problems:
        raise NetError("has fields without a successor, see above; remove them", path)
    return net
