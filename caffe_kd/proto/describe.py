"""The fields of messages, for display: types, numbers, defaults and the comments of the schema."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from . import schema, user_blocks

Comments = dict[tuple[str, str], list[str]]

_MESSAGE = re.compile(r"message (\w+)")
_FIELD = re.compile(r"(?:optional|required|repeated)\s+\S+\s+(\w+)\s*=[^;]*;")
_VALUE = re.compile(r"(\w+)\s*=\s*-?\d+;")  # of an enum
_LABELS = ("repeated", "required", "optional")


def message_of(name: str) -> Descriptor | None:
    """Return the message of a name: its own, as PoolingParameter, or that of a layer's block."""
    messages = schema.descriptor().message_types_by_name
    if name in messages:
        return messages[name]
    field = user_blocks.field_of(messages["LayerParameter"], name)
    return field.message_type if field is not None else None


def names() -> list[str]:
    """Return the names that ``message_of`` takes."""
    messages = schema.descriptor().message_types_by_name
    blocks = [f.name for f in messages["LayerParameter"].fields if f.message_type is not None]
    return [*messages, *blocks, *user_blocks.texts()]


@dataclass(frozen=True)
class Field:
    """A field of a message, as in the schema.

    Attributes:
        name: its name.
        number: its number in binary files.
        label: optional, required or repeated.
        kind: its type: a scalar's name, or that of a message or enum.
        choices: the names of an enum's values.
        default: the value it has where it is not set, as a prototxt writes it; empty for none.
        comment: its comment in the schema, by lines.
        of_values: the comments of an enum's values, by lines.
    """

    name: str
    number: int
    label: str
    kind: str
    choices: tuple[str, ...]
    default: str
    comment: tuple[str, ...]
    of_values: tuple[str, ...]


def fields(message: Descriptor) -> list[Field]:
    """Return a message's fields, except those that no prototxt has."""
    comments = _comments(_text_of(message))
    return [
        Field(
            field.name,
            field.number,
            _LABELS[0] if field.is_repeated else _LABELS[1 if field.is_required else 2],
            _type_name(field),
            tuple(v.name for v in field.enum_type.values) if field.enum_type is not None else (),
            _default(field) if field.has_default_value else "",
            tuple(comments.get((message.name, field.name), ())),
            tuple(_of_values(field.enum_type, comments)),
        )
        for field in message.fields
        if field.name not in ("source_line", schema.FOREIGN)
    ]


def _of_values(enum: EnumDescriptor | None, comments: Comments) -> list[str]:
    if enum is None or enum.containing_type is None:
        return []
    of_values = {v.name: comments.get((enum.containing_type.name, v.name), ()) for v in enum.values}
    return [f"{name}: {' '.join(lines)}" for name, lines in of_values.items() if lines]


def about(message: Descriptor) -> str:
    """Return a message's comment in the schema, on one line; empty if it has none."""
    return " ".join(_comments(_text_of(message)).get((message.name, ""), ()))


def lines(message: Descriptor) -> list[str]:
    """Return a message's fields as lines, each as in a ``.proto`` file with its comment below."""
    result = []
    for field in fields(message):
        default = f" [default = {field.default}]" if field.default else ""
        choices = f"  ({', '.join(field.choices)})" if field.choices else ""
        result.append(f"{field.label} {field.kind} {field.name} = {field.number}{default}{choices}")
        result += [f"    {line}" for line in (*field.comment, *field.of_values)]
    return result


def _text_of(message: Descriptor) -> str:
    if message.file.name == schema.FILE_NAME:
        return Path(__file__).with_name("caffe.proto").read_text(encoding="utf-8")
    return user_blocks.texts()[message.file.package.rpartition(".")[2]]


def _type_name(field: FieldDescriptor) -> str:
    kind = field.message_type or field.enum_type
    return kind.name if kind is not None else schema.SCALAR_NAMES[field.type]


def _default(field: FieldDescriptor) -> str:
    value = field.default_value
    if field.enum_type is not None:
        return str(field.enum_type.values_by_number[value].name)
    if isinstance(value, str):
        return f'"{value}"'
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"


@cache
def _comments(text: str) -> Comments:
    """Return the comments of a ``.proto`` text by message and what it names; itself: by ""."""
    return dict(_commented(text))


def _commented(text: str) -> Iterator[tuple[tuple[str, str], list[str]]]:
    message = ""
    above: list[str] = []
    for line in map(str.strip, text.splitlines()):
        code, _, comment = (part.strip() for part in line.partition("//"))
        if not code:
            above = [*above, comment] if comment else []
            continue
        for statement in re.split(r"(?<=[{;])\s*(?=\w)", code):
            opened = _MESSAGE.match(statement)
            named = _FIELD.match(statement) or _VALUE.match(statement)
            if opened is not None:
                message = opened.group(1)
                yield (message, ""), above
            elif named is not None:
                yield (message, named.group(1)), [*above, *([comment] if comment else [])]
            above = []
