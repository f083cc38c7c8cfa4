"""The commands: each module here that has a SUMMARY is one, in the group that its GROUP names.

Both are read from the modules' text, because importing all of them takes long. A new command is one
file; no other file has to name it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

GROUPS = {
    "train": "Train and distil",
    "check": "Look and check",
    "deploy": "Convert and deploy",
    "caffe": "Caffe's own",
}
# Short names of commands that are called as their script in tools/.
SHORT = {
    "export": "export_onnx",
    "compose": "compose_kd",
    "plot": "plot_training_log",
    "upgrade": "upgrade_net_proto_text",
}


@dataclass(frozen=True)
class Command:
    """A command's line in ``caffe_kd -h``, and the key of its group."""

    summary: str
    group: str


def find(name: str) -> Command | None:
    """Return a command by its name; None: there is none."""
    path = _modules().get(name)
    return None if path is None else _read(path)


@cache
def commands() -> dict[str, Command]:
    """Return all commands by name: group by group, in alphabetical order within a group."""
    found = {name: _read(path) for name, path in sorted(_modules().items())}
    known = {name: command for name, command in found.items() if command is not None}
    order = list(GROUPS)
    return dict(sorted(known.items(), key=lambda item: order.index(item[1].group)))


def _modules() -> dict[str, Path]:
    return {path.stem: path for path in Path(__file__).parent.glob("*.py")}


def _read(path: Path) -> Command | None:
    source = path.read_text(encoding="utf-8")
    summary, group = (
        re.search(rf'^{constant} = "(.+)"$', source, re.MULTILINE)
        for constant in ("SUMMARY", "GROUP")
    )
    return Command(summary[1], group[1]) if summary and group else None
