"""The tokens of a prototxt, each with its line."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from typing import NoReturn

from ..core.errors import ParseError

Token = tuple[str, str, int]  # kind, text and line

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\f\v]+|\#[^\n]*)
    |(?P<newline>\n)
    |(?P<word>[A-Za-z_]\w*)
    |(?P<number>(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?[fF]?))
    |(?P<quote>["'])
    |(?P<left_out>\.\.\.)
    |(?P<mark>[-{}<>\[\]:;,])
    |(?P<other>.)""",
    re.VERBOSE,
)
# Where a string may end; one pattern for a whole string would take 260 bytes for each escape.
_IN_STRING = re.compile(r"""\\.|["'\n\\]""")


class Tokens:
    """A position in a prototxt, whose tokens are split off one by one as they are taken.

    Args:
        text: the prototxt.
        name: the file's name in messages.
        line: the file's line where ``text`` begins.
    """

    def __init__(self, text: str, name: str, line: int = 1) -> None:
        self.name = name
        self._rest = self._tokenize(text, line)
        self._ahead = deque([next(self._rest)])
        self._taken: Token = ("end", "", line)

    def _tokenize(self, text: str, line: int) -> Iterator[Token]:
        at = 0
        while match := _TOKEN.match(text, at):
            at = match.end()
            kind = match.lastgroup
            if kind == "newline":
                line += 1
            elif kind == "quote":
                at = self._end_of_string(text, match.start(), line)
                yield "string", text[match.start() : at], line
            elif kind == "other":
                self.fail_at(line, f"not a prototxt: unexpected character {match.group()!r}")
            elif kind == "left_out":
                self.fail_at(
                    line,
                    "'...' replaces layers that were left out: write them here, then run again",
                )
            elif kind != "space":
                yield kind or "", match.group(), line
        yield "end", "", line

    def _end_of_string(self, text: str, start: int, line: int) -> int:
        """Return the position after the closing quote of a string."""
        quote = text[start]
        for match in _IN_STRING.finditer(text, start + 1):
            if match.group() == quote:
                return match.end()
            if match.group() in ("\n", "\\"):
                break
        self.fail_at(line, f"a string that begins with {quote} does not end on its line")

    @property
    def kind(self) -> str:
        """What the next token is: word, number, string, mark or end."""
        return self._ahead[0][0]

    @property
    def line(self) -> int:
        """The line of the next token."""
        return self._ahead[0][2]

    @property
    def taken(self) -> Token:
        """The token taken last."""
        return self._taken

    def fail_at(self, line: int, message: str) -> NoReturn:
        """Fail at a line of the file."""
        raise ParseError(message, f"{self.name}:{line}")

    def fail(self, message: str) -> NoReturn:
        """Fail at the next token."""
        self.fail_at(self.line, message)

    def peek(self) -> str:
        """Return the next token; at the end of the file it is empty."""
        return self._ahead[0][1]

    def ahead(self, count: int) -> Token:
        """Return the token ``count`` tokens after the next; after the end it is another end."""
        while len(self._ahead) <= count and self._ahead[-1][0] != "end":
            self._ahead.append(next(self._rest))
        return self._ahead[min(count, len(self._ahead) - 1)]

    def peek_behind(self, mark: str) -> str:
        """Return the next token, or, if it is the mark, the one after it."""
        return self.ahead(int(self.peek() == mark))[1]

    def take(self) -> Token:
        """Return the next token and move on; after the end there is always another end."""
        token = self._ahead[0]
        if token[0] != "end":
            self._taken = self._ahead.popleft()
            if not self._ahead:
                self._ahead.append(next(self._rest))
        return token

    def put_back(self) -> None:
        """Make the token taken last the next one."""
        self._ahead.appendleft(self._taken)

    def skip(self, *marks: str) -> bool:
        """Move on if the next token is one of these marks, and return whether it was."""
        if self.peek() in marks and self.kind == "mark":
            self.take()
            return True
        return False
