"""Refuses characters that no name in a net is meant to have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from ..core.errors import ParseError, has_control_characters
from ..core.files import name_hint

MOST_CHARACTERS = 4096
_FREE = ("param_str", "text")  # read by Python layers, and a fork's own field
_LINE = "source_line"


def check_strings(message: Any, file: str) -> None:
    """Raise ParseError for names, paths and words of a net or solver that would garble output.

    Raises:
        ParseError: a string has control characters or is too long.
    """
    for where, name, value in _strings(message, file):
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            problem = "is not UTF-8"
        elif has_control_characters(value):
            problem = "has control characters, which cannot be intended"
        elif len(value) > MOST_CHARACTERS:
            problem = f"has {len(value)} characters; at most {MOST_CHARACTERS} are allowed"
        else:
            continue
        hint = name_hint(value)
        raise ParseError(f"'{name}' {problem}. Received: \"{value[:60]}\"{hint}", where)


def _strings(message: Any, where: str) -> Iterator[tuple[str, str, str]]:
    """Yield location, field and value of each string, here and in every message below."""
    line = getattr(message, _LINE, "") or where
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for item in value if field.is_repeated else [value]:
                yield from _strings(item, line)
        elif field.type == FieldDescriptor.TYPE_STRING and field.name not in (*_FREE, _LINE):
            for item in value if field.is_repeated else [value]:
                # protobuf returns invalid UTF-8 of a binary file as bytes
                is_text = isinstance(item, str)
                yield line, field.name, item if is_text else item.decode(errors="surrogateescape")
