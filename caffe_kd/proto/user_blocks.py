"""Blocks of settings that a user's own layer types bring: ``my_loss_param { factor: 2 }``.

Each is an extension of LayerParameter in the private pool, made at run time from the text of its
messages. For reading and writing a prototxt it is a field like any other. In binary its number
follows from its name alone, so that a file written in one process is read in another; a process
that does not know the type keeps the block as it is.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from . import schema

# The numbers of LayerParameter that caffe.proto leaves to such blocks.
FIRST, LAST = 100_000_000, 536_870_911

_PACKAGE = "caffe_kd_user"
_WORD_BEGINS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
# How protobuf prints the name of an extension, at the beginning of a line.
_PRINTED = re.compile(rf"^( *)\[{_PACKAGE}\.\w+\.(\w+)\]", re.MULTILINE)

_fields: dict[str, FieldDescriptor] = {}
_texts: dict[str, str] = {}


def define(text: str, name: str | None = None) -> str:
    """Add a block to LayerParameter and return its field's name.

    Adding the same block again changes nothing.

    Args:
        text: the messages, as in a ``.proto`` file; the first is the block's. They may use those of
            ``caffe.proto``, as FillerParameter.
        name: the field's name; by default that of the message, ``my_loss_param`` for
            ``MyLossParameter``.

    Raises:
        ValueError: the text does not define such messages, or another field of that name exists.
    """
    try:
        messages = schema.parse(text, "message=")
    except ValueError as error:
        raise ValueError(f"{error}. Expected: 'message NameParameter {{ ... }}'") from None
    if not messages.message_type:
        raise ValueError("message= expects 'message NameParameter { ... }'")
    block = messages.message_type[0].name
    name = name or _name_of(block)
    if _texts.get(name) == text:
        return name
    number = number_of(name)
    _check_free(name, number)
    messages.name = f"{_PACKAGE}/{name}.proto"
    messages.package = f"{_PACKAGE}.{name}"
    messages.syntax = "proto2"
    messages.dependency.append(schema.FILE_NAME)
    messages.extension.add(
        name=name,
        number=number,
        extendee=".caffe.LayerParameter",
        label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
        type=descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE,
        type_name=f".{messages.package}.{block}",
    )
    schema.complete(messages, imported=schema.descriptor())
    try:
        schema.pool().AddSerializedFile(messages.SerializeToString())
    except TypeError as error:
        raise ValueError(f"message= of '{name}': {error}") from None
    _fields[name] = schema.pool().FindExtensionByName(f"{messages.package}.{name}")
    _texts[name] = text
    return name


def _name_of(message: str) -> str:
    if not message.endswith("Parameter") or message == "Parameter":
        raise ValueError(
            f"message= describes '{message}': its name must end in Parameter, as MyLossParameter, "
            "whose block is my_loss_param; or name the block with param="
        )
    return _WORD_BEGINS.sub("_", message.removesuffix("Parameter")).lower() + "_param"


def number_of(name: str) -> int:
    """Return the number of the field of a name."""
    digest = hashlib.sha256(name.encode()).digest()
    return FIRST + int.from_bytes(digest[:8], "big") % (LAST - FIRST + 1)


def _check_free(name: str, number: int) -> None:
    if not name.isidentifier():
        raise ValueError(
            f"param= expects the name of a block, such as my_loss_param. Received: {name!r}"
        )
    if name in schema.messages()["LayerParameter"].DESCRIPTOR.fields_by_name:
        raise ValueError(
            f"'{name}' is a field of LayerParameter already: give the block another name, or "
            "leave message= out to use it as it is"
        )
    if name in _fields:
        raise ValueError(f"the block '{name}' is already defined, with other text")
    for other, field in _fields.items():
        if field.number == number:
            raise ValueError(f"'{name}' and '{other}' have the same number: rename one of them")


def field_of(descriptor: Descriptor, name: str) -> FieldDescriptor | None:
    """Return a message's field of a name; a layer's may be of a user's own."""
    field: FieldDescriptor | None = descriptor.fields_by_name.get(name)
    if field is None and descriptor.name == "LayerParameter":
        return _fields.get(name)
    return field


def texts() -> dict[str, str]:
    """Return the text of the messages of each block, by the field's name."""
    return dict(_texts)


def value_of(message: Any, field: FieldDescriptor) -> Any:
    """Return the value of a message's field, as ``getattr`` does for the schema's own."""
    return message.Extensions[field] if field.is_extension else getattr(message, field.name)


def plain_names(prototxt: str) -> str:
    """Return prototxt printed by protobuf, with plain names for users' fields."""
    if f"[{_PACKAGE}." not in prototxt:
        return prototxt
    return _PRINTED.sub(r"\1\2", prototxt)
