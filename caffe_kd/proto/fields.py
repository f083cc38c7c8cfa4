"""Copies a field's value from one message to a field of another, where it fits."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.unknown_fields import UnknownFieldSet


def put(target: Any, name: str, field: FieldDescriptor, value: Any) -> None:
    """Set ``target``'s field ``name`` to what another message's ``field`` holds.

    Args:
        target: the message to write to.
        name: its field; of the same type, but it may be repeated where the source is not.
        field: the source's descriptor, as ``ListFields`` gives it.
        value: the source's value, likewise.
    """
    known = target.DESCRIPTOR.fields_by_name[name]
    if known.is_repeated:
        getattr(target, name).extend(value if field.is_repeated else [value])
    elif known.message_type is not None:
        getattr(target, name).CopyFrom(value)
        getattr(target, name).SetInParent()  # an empty block is still a block
    else:
        setattr(target, name, value)


def unknown_numbers(message: Any) -> list[int]:
    """Return the numbers of the fields that a binary message has but its type does not know."""
    unknown: Any = UnknownFieldSet(message)
    return sorted({field.field_number for field in unknown})
