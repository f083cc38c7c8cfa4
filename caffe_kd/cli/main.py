"""``caffe_kd COMMAND``: finds the command's module and hands the rest of the line to it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from ..core.errors import did_you_mean
from ..core.version import VERSION
from .commands import GROUPS, SHORT, commands, find
from .flags import GLOG_SWITCHES
from .guard import guarded

# The commands of Caffe's `caffe`, which lets flags stand before them.
FLAGS_MAY_COME_FIRST = ("train", "test", "time", "device_query")


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status: 0, 1 for a failure, 2 for wrong usage."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "-help", "--help"):
        print(overview())
        return 0 if words else 2
    if words[0] in ("-V", "-version", "--version"):
        print(f"caffe_kd {VERSION}")
        return 0
    words = _command_first(words)
    name = SHORT.get(words[0], words[0])
    if find(name) is None:
        print(
            f"error: unknown command '{words[0]}'.{did_you_mean(words[0], [*commands(), *SHORT])}\n"
            "caffe_kd -h lists the commands",
            file=sys.stderr,
        )
        return 2
    status: int = import_module(f"{__package__}.{name}").main(words[1:])
    return status


def _command_first(words: list[str]) -> list[str]:
    """Return the words with the command at the head, where flags may stand before it."""
    at = 0
    while at < len(words) and words[at].startswith("-"):
        name = words[at].lstrip("-")
        at += 1 if "=" in name or name in GLOG_SWITCHES else 2
    if at < len(words) and words[at] in FLAGS_MAY_COME_FIRST:
        return [words[at], *words[:at], *words[at + 1 :]]
    return words


def overview() -> str:
    """Return what ``-h`` prints: the commands in their groups."""
    lines = ["usage: caffe_kd COMMAND [FLAGS]    (caffe_kd COMMAND -h lists its flags)"]
    shorts = {name: short for short, name in SHORT.items()}
    for key, title in GROUPS.items():
        lines += ["", f"{title}:"]
        for name, command in commands().items():
            if command.group == key:
                short = f" (short: {shorts[name]})" if name in shorts else ""
                lines.append(f"  {name:25s} {command.summary}{short}")
    return "\n".join([*lines, "", "To begin: caffe_kd quickstart"])
