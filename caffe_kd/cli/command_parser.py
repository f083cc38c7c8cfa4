"""The parser of a command: usage that can be typed, an example in ``-h``, errors of one line."""

from __future__ import annotations

import argparse
import copy
import re
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any, NoReturn

from ..core.errors import UsageError, did_you_mean

_MISSING = "the following arguments are required: "
_UNKNOWN = "unrecognized arguments: "


class CommandParser(argparse.ArgumentParser):
    """Refuses abbreviated flags, and raises UsageError for a command line that is wrong.

    Args:
        name: the command.
        description: what it does.
        example: the flags and arguments of a command line that can be typed.
        notes: lines for the end of ``-h``, printed as they are.
        words: the usage after the command's name; None: the required arguments and ``[FLAGS]``.

    Attributes:
        example: as given.
    """

    def __init__(
        self, name: str, description: str, example: str, notes: str = "", words: str | None = None
    ) -> None:
        prog = program(name)
        width = shutil.get_terminal_size().columns - 2
        line = f"example: {prog} {example}".rstrip()
        super().__init__(
            prog=prog,
            description=textwrap.fill(" ".join(description.split()), width),
            epilog="\n\n".join(filter(None, (notes, line))),
            formatter_class=_Formatter,
            allow_abbrev=False,
        )
        self.example = example
        self._words = words
        self._given: list[str] = []

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, and keep what was given for the error."""
        self._given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def command_line(self) -> str:
        """Return the command with all arguments that are required."""
        if self._words is not None:
            return f"{self.prog} {self._words}".rstrip()
        visible = [action for action in self._actions if action.help != argparse.SUPPRESS]
        needed = [action for action in visible if action.required or not action.option_strings]
        formatter = self._get_formatter()
        formatter.add_usage(None, needed, [], "")
        line = " ".join(formatter.format_help().split())
        return line if len(visible) == len(needed) + 1 else f"{line} [FLAGS]"  # 1: -h

    def format_usage(self) -> str:
        """Return the usage in one line."""
        return f"usage: {self.command_line()}\n"

    def format_help(self) -> str:
        """Return usage, description, flags and example."""
        self.usage = self.command_line().replace("%", "%%")
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Report in one line what is wrong, where argparse takes several.

        Raises:
            UsageError: always.
        """
        message = re.sub(r"(-\w+)/-\1\b", r"\1", message)  # -name/--name is one flag
        if message.startswith(_MISSING):
            message = self._unknown_flag() or self._missing(message.removeprefix(_MISSING))
        elif message.startswith(_UNKNOWN):
            word = message.removeprefix(_UNKNOWN).split()[0]
            message = self._unknown_flag() or f"unknown argument '{word}'."
        raise UsageError(f"{message} (usage: {self.command_line()})")

    def _missing(self, names: str) -> str:
        action = self._option_string_actions.get(names.split(",")[0])
        return f"{getattr(action, 'need', None) or 'missing'}: {names}"

    def _unknown_flag(self) -> str | None:
        """Return the message for the first unknown flag; None if all are known."""
        known = self._option_string_actions
        for word in self._given:
            flag = word.partition("=")[0]
            if re.match("--?[a-zA-Z]", flag) and flag not in known:
                of_one_dash = [name for name in known if name[:2] != "--"]
                return f"unknown flag '{flag}'.{did_you_mean(flag, of_one_dash)}"
        return None


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Shows one spelling of each flag, where argparse repeats ``-name X`` as ``--name X``."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        first = action.option_strings[:1]
        if first and [*action.option_strings] == [first[0], f"-{first[0]}"]:
            action = copy.copy(action)
            action.option_strings = first
        return super()._format_action_invocation(action)


def program(name: str) -> str:
    """Return how a command was called, to be typed again: by its script in tools/, or by name."""
    script = Path(sys.argv[0] if sys.argv else "")
    names = (f"{name}.py", f"{name}_kd.py", f"{name.removeprefix('pycaffe_')}.py")
    if script.name in names and "tools" in script.parts[-3:-1]:
        return f"python {script}"
    return f"caffe_kd {name}"
