"""What several commands print: sentences, prototxt, and notes about an old net."""

from __future__ import annotations

import sys
from typing import Any

from ..core.errors import NetError


def say(sentence: str) -> None:
    """Print a sentence at once."""
    print(sentence, flush=True)


def print_prototxt(message: Any) -> None:
    """Print a message as prototxt, with escapes where stdout cannot show its letters."""
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
        print(f"wrote {path}", file=sys.stderr)
    else:
        print_prototxt(message)


def read_current_net(path: str) -> Any:
    """Read a net's prototxt of any year; tell on stderr what was upgraded.

    Raises:
        NetError: a field has no successor.
    """
    from ..net import read_net
    from ..proto.upgrade import Notes

    notes = Notes()
    net = read_net(path, notes)
    for line in notes.lines:
        print(line, file=sys.stderr)
    if notes.problems:
        raise NetError("has fields without a successor, see above; remove them", path)
    return net
