"""Every error a user can meet, in one tree.

    CaffeKDError                exit status 1
    ├── UsageError              exit status 2: a flag or argument is wrong
    ├── ParseError              a file is not what it is said to be, or is damaged
    │   └── MissingFile         it is not there
    ├── NetError                a net or layer cannot be built or run
    ├── WeightsError            weights do not fit the net
    ├── DataError               samples are missing or wrong
    ├── SolverError             a solver setting is missing or wrong
    │   └── NonFinite           NaN or infinite values came up in training
    │       ├── NonFiniteLoss   as the loss
    │       └── NonFiniteWeights  in the weights
    ├── ExportError             a net cannot be exported, or the export differs
    └── Stopped                 exit status 128 + signal: a signal has ended a training early

A message names, as far as known, the location (``file:line``), the layer, what was wrong, what was
received and what would be right. The command line prints it as one paragraph without a traceback.
"""

from __future__ import annotations

import difflib
import re
import signal
from collections.abc import Iterable

# What a terminal interprets or hides: control characters, marks of direction and of no width,
# separators of lines, and bytes of file names that are not text. A line break before an indent is
# meant.
_CONTROL = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f"
)
_NOT_PRINTED = re.compile(rf"[{_CONTROL}]|\n(?!  )")
_IN_NAMES = re.compile(rf"[{_CONTROL}\n\t]")
_LONG = re.compile(r"\S{1000,}")


def has_control_characters(name: str) -> bool:
    """Return whether a name holds what a terminal interprets or hides."""
    return _IN_NAMES.search(name) is not None


def printable(text: str) -> str:
    """Return text as it may be printed: control characters escaped, very long words shortened.

    A line break stays if the next line is indented by two blanks.
    """
    return _escaped(_NOT_PRINTED, text)


def printable_name(name: str) -> str:
    """Return a name as it may be printed within a line: line breaks and tabs are escaped too."""
    return _escaped(_IN_NAMES, name)


def _escaped(characters: re.Pattern[str], text: str) -> str:
    text = _LONG.sub(lambda m: f"{m[0][:400]}…({len(m[0])} characters)…{m[0][-100:]}", text)
    return characters.sub(lambda m: ascii(m[0])[1:-1], text)


class CaffeKDError(Exception):
    """Root of the tree; ``where`` is ``file:line`` or a file, and begins the message."""

    exit_status = 1
    logged = False  # whether a log has shown it to the user already

    def __init__(self, message: str, where: str | None = None) -> None:
        message = printable(message)
        where = printable(where) if where else where
        super().__init__(f"{where}: {message}" if where else message)
        self.message = message
        self.where = where


class UsageError(CaffeKDError):
    """A command was called wrongly."""

    exit_status = 2


class ParseError(CaffeKDError):
    """A file could not be read as what it is said to be."""


class MissingFile(ParseError):
    """A file is not there."""


class NetError(CaffeKDError):
    """A net or one of its layers cannot be built or run."""


class WeightsError(CaffeKDError):
    """Weights do not fit the net they are given to."""


class DataError(CaffeKDError):
    """Samples are missing, damaged or out of range."""


class SolverError(CaffeKDError):
    """A solver setting is missing or wrong."""


class NonFinite(SolverError):
    """NaN or infinite values came up in training."""


class NonFiniteLoss(NonFinite):
    """The loss became NaN or infinite."""


class NonFiniteWeights(NonFinite):
    """The weights became NaN or infinite."""


class ExportError(CaffeKDError):
    """A net cannot be exported, or the exported model's outputs differ from the net's."""


class Stopped(CaffeKDError):
    """A signal has ended a training early; the message says how it goes on.

    The exit status is the one a shell gives for a program ended by a signal, so that a script does
    not take the result for a trained net.
    """

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.exit_status = 128 + number


MAX_WORD = 100  # longer names are not compared: it takes long, and they are no typos


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the closest known word, or an empty string."""
    if len(word) > MAX_WORD:
        return ""
    known = list(known)
    by_lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return f" Did you mean '{by_lower[close[0]]}'?" if close else ""


def misspelt(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for a known name within two letters, or an empty string.

    For names that forks may have added, where a name that is merely similar misleads.
    """
    allowed = 1 if len(word) < 4 else 2
    near = {name: _edit_distance(word, name, allowed) for name in known}
    closest = min(near, key=near.__getitem__, default="")
    return f" Did you mean '{closest}'?" if closest and near[closest] <= allowed else ""


def _edit_distance(a: str, b: str, limit: int) -> int:
    """Return the edit distance; where it exceeds the limit, any number above the limit."""
    if abs(len(a) - len(b)) > limit:
        return limit + 1
    above = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
        above = row
    return above[-1]
