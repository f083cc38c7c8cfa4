"""The tokens of a prototxt, each with its line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NoReturn

from ..errors import ParseError

Token = tuple[str, str, int]  # what it is, how it is written, and its line

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\f\v]+|\#[^\n]*)
    |(?P<newline>\n)
    |(?P<word>[A-Za-z_]\w*)
    |(?P<number>(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?[fF]?))
    |(?P<string>"[^"\\\n]*(?:\\.[^"\\\n]*)*"|'[^'\\\n]*(?:\\.[^'\\\n]*)*')
    |(?P<left_out>\.\.\.)
    |(?P<mark>[-{}<>\[\]:;,])
    |(?P<other>.)""",
    re.VERBOSE,
)


class Tokens:
    """A place among the tokens of a prototxt.

    Args:
        text: the prototxt.
        name: stands for the file in messages.
        line: the file's line where ``text`` begins.
    """

    def __init__(self, text: str, name: str, line: int = 1) -> None:
        self.name = name
        self._tokens = list(self._tokenize(text, line))
        self._next = 0

    def _tokenize(self, text: str, line: int) -> Iterator[Token]:
        for match in _TOKEN.finditer(text):
            kind = match.lastgroup
            if kind == "newline":
                line += 1
            elif kind == "other":
                self.fail_at(line, self._stray(match.group()))
            elif kind == "left_out":
                self.fail_at(
                    line, "'...' stands where layers were left out: write them here, then run again"
                )
            elif kind != "space":
                yield kind or "", match.group(), line
        yield "end", "", line

    @staticmethod
    def _stray(character: str) -> str:
        if character in "\"'":
            return f"a string that begins with {character} does not end on its line"
        return f"not a prototxt: unexpected character {character!r}"

    @property
    def kind(self) -> str:
        """What the next token is: word, number, string, mark or end."""
        return self._tokens[self._next][0]

    @property
    def line(self) -> int:
        """The line of the next token."""
        return self._tokens[self._next][2]

    @property
    def taken(self) -> Token:
        """The token taken last."""
        return self._tokens[self._next - 1]

    def fail_at(self, line: int, message: str) -> NoReturn:
        """Fail at a line of the file."""
        raise ParseError(message, f"{self.name}:{line}")

    def fail(self, message: str) -> NoReturn:
        """Fail at the next token."""
        self.fail_at(self.line, message)

    def peek(self) -> str:
        """Return the next token; at the end of the file it is empty."""
        return self._tokens[self._next][1]

    def peek_behind(self, mark: str) -> str:
        """Return the next token, or if it is the mark the one behind it."""
        behind = self._next + (self.peek() == mark)
        return self._tokens[min(behind, len(self._tokens) - 1)][1]

    def take(self) -> Token:
        """Return the next token and move on; behind the end there is always another end."""
        token = self._tokens[self._next]
        if token[0] != "end":
            self._next += 1
        return token

    def put_back(self) -> None:
        """Make the token taken last the next one."""
        self._next -= 1

    def skip(self, *marks: str) -> bool:
        """Move on if the next token is one of these marks, and say so."""
        if self.peek() in marks and self.kind == "mark":
            self._next += 1
            return True
        return False
