"""Formats the written Python statements: long ones are broken at commas."""

from __future__ import annotations

import io
import keyword
import tokenize
from collections.abc import Iterator

_WIDTH = 100
_CLOSING = {"(": ")", "[": "]", "{": "}"}


def statement(code: str, comment: str = "", indent: int = 8) -> list[str]:
    """Return the lines of a statement at an indent, its comment behind it or above."""
    margin = " " * indent
    if not comment:
        return _broken(code, margin)
    joined = f"{margin}{code}  # {comment}"
    return [joined] if len(joined) <= _WIDTH else [f"{margin}# {comment}", *_broken(code, margin)]


def _broken(code: str, margin: str) -> list[str]:
    """Break the longest call, list or dictionary of a statement where it is too long for a line."""
    if len(margin) + len(code) <= _WIDTH:
        return [margin + code]
    begin, end, commas = max(
        _groups(code), key=lambda group: group[1] - group[0], default=(0, 0, [])
    )
    if begin == end:
        return [margin + code]
    starts = [begin, *(comma + 1 for comma in commas)]
    parts = [code[a:b].strip() for a, b in zip(starts, [*commas, end], strict=True)]
    inner = [line for part in parts for line in _broken(f"{part},", f"{margin}    ")]
    return [margin + code[:begin], *inner, margin + code[end:]]


def _groups(code: str) -> Iterator[tuple[int, int, list[int]]]:
    """Yield the content of each outermost call, list and dictionary.

    Start, end and commas of each. Parentheses that only group are left alone, since a comma would
    make a tuple of them; so are subscripts.
    """
    open_brackets: list[str] = []
    begin, commas, before = 0, list[int](), ""
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        at, text = token.start[1], token.string
        if token.type == tokenize.OP and text in _CLOSING:
            if not open_brackets:
                begin, commas = at + 1, []
                is_name = before.isidentifier() and not keyword.iskeyword(before)
                follows_value = is_name or before in (")", "]")
                breaks = follows_value == (text == "(")
            open_brackets.append(_CLOSING[text])
        elif open_brackets and text == open_brackets[-1]:
            open_brackets.pop()
            if not open_brackets and breaks and at > begin:
                yield begin, at, commas
        elif text == "," and len(open_brackets) == 1:
            commas.append(at)
        before = text
