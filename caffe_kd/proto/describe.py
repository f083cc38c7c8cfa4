"""The fields of messages for a reader: types, numbers, defaults and the comments of the schema."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from . import schema, user_blocks

_MESSAGE = re.compile(r"message (\w+)")
_FIELD = re.compile(r"(?:optional|required|repeated)\s+\S+\s+(\w+)\s*=[^;]*;\s*(?://\s*(.*))?")
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


def lines(message: Descriptor) -> list[str]:
    """Return a message's fields as lines, each as in a ``.proto`` file with its comment below."""
    comments = _comments(_text_of(message))
    result = []
    for field in message.fields:
        if field.name in ("source_line", schema.FOREIGN):
            continue
        result.append(_field(field))
        result += [f"    {line}" for line in comments.get((message.name, field.name), ())]
    return result


def _text_of(message: Descriptor) -> str:
    if message.file.name == schema.FILE_NAME:
        return Path(__file__).with_name("caffe.proto").read_text(encoding="utf-8")
    return user_blocks.texts()[message.file.package.rpartition(".")[2]]


def _field(field: FieldDescriptor) -> str:
    label = _LABELS[0] if field.is_repeated else _LABELS[1 if field.is_required else 2]
    kind, choices = _type_name(field), ""
    if field.enum_type is not None:
        choices = f"  ({', '.join(v.name for v in field.enum_type.values)})"
    default = f" [default = {_default(field)}]" if field.has_default_value else ""
    return f"{label} {kind} {field.name} = {field.number}{default}{choices}"


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
def _comments(text: str) -> dict[tuple[str, str], list[str]]:
    """Return the comments of a ``.proto`` text by message and field."""
    return dict(_commented(text))


def _commented(text: str) -> Iterator[tuple[tuple[str, str], list[str]]]:
    message, above = "", []
    for line in map(str.strip, re.sub(r"([{;])[ \t]*(?=\w)", r"\1\n", text).splitlines()):
        if line.startswith("//"):
            above.append(line.removeprefix("//").strip())
            continue
        opened, field = _MESSAGE.match(line), _FIELD.match(line)
        if opened is not None:
            message = opened.group(1)
        elif field is not None:
            beside = [field.group(2)] if field.group(2) else []
            yield (message, field.group(1)), [*above, *beside]
        above = []
