"""Reads ``caffe.proto`` into a private descriptor pool.

The pool is private because a process may hold only one ``caffe.NetParameter`` in protobuf's default
pool: a program that has imported Caffe's ``caffe_pb2`` can still import this package. The
``.proto`` text itself is the only source, so no generated file can become outdated.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

FILE_NAME = "caffe_kd/proto/caffe.proto"
FOREIGN = "foreign"
FOREIGN_NUMBER = 51080
_FIRST_BACKEND = 52_000  # after the numbers that caffe.proto gives

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    name: getattr(_Field, f"TYPE_{name.upper()}")
    for name in ("double", "float", "int64", "uint64", "int32", "bool", "string", "bytes", "uint32")
}
SCALAR_NAMES = {number: name for name, number in _SCALARS.items()}
_LABELS = {
    label: getattr(_Field, f"LABEL_{label.upper()}")
    for label in ("optional", "required", "repeated")
}
# A comment, a string, a number, a word; any other character is a token.
_TOKEN = re.compile(r'//[^\n]*|"(?:[^"\\]|\\.)*"|-?\d[\d.]*(?:e[-+]?\d+)?|[\w.]+|\S')


class _Reader:
    """A reader for the part of the proto2 language that ``caffe.proto`` is written in."""

    def __init__(self, text: str, file: descriptor_pb2.FileDescriptorProto) -> None:
        tokens = (t for t in _TOKEN.findall(text) if not t.startswith("//"))
        self._tokens: Iterator[str] = iter(tokens)
        self._file = file

    def read(self) -> None:
        for token in self._tokens:
            if token in ("syntax", "package"):
                value = self._until(";")[-1].strip('"')
                setattr(self._file, token, value)
            elif token == "enum":
                self._enum(self._file.enum_type.add())
            elif token == "message":
                self._message(self._file.message_type.add())
            else:
                raise self._fault(f"unexpected '{token}'")

    def _fault(self, what: str) -> ValueError:
        return ValueError(f"{self._file.name}: {what}")

    def _until(self, end: str) -> list[str]:
        """Take the tokens before the next ``end``, and ``end`` too."""
        taken: list[str] = []
        for token in self._tokens:
            if token == end:
                return taken
            taken.append(token)
        raise self._fault(f"'{end}' expected")

    def _block(self) -> Iterator[str]:
        """Yield the first token of each statement, up to the block's closing brace."""
        for token in self._tokens:
            if token == "}":
                return
            yield token
        raise self._fault("'}' expected")

    def _enum(self, enum: descriptor_pb2.EnumDescriptorProto) -> None:
        (enum.name,) = self._until("{")
        for name in self._block():
            _, number = self._until(";")
            enum.value.add(name=name, number=int(number))

    def _message(self, message: descriptor_pb2.DescriptorProto) -> None:
        (message.name,) = self._until("{")
        for token in self._block():
            if token == "enum":
                self._enum(message.enum_type.add())
            elif token in _LABELS:
                self._field(message.field.add(label=_LABELS[token]), self._until(";"))
            elif token == "extensions":
                first, _, last = self._until(";")
                message.extension_range.add(start=int(first), end=int(last) + 1)
            else:
                raise self._fault(f"unexpected '{token}'")
        own_enums = {e.name for e in message.enum_type}
        for field in message.field:
            if field.type_name in own_enums:
                field.type_name = f"{message.name}.{field.type_name}"

    def _field(self, field: descriptor_pb2.FieldDescriptorProto, statement: list[str]) -> None:
        if len(statement) < 4 or not statement[3].isdigit():
            raise self._fault(f"a field is 'type name = number'. Received: {' '.join(statement)}")
        type_name, field.name, _, number, *options = statement
        field.number = int(number)
        if type_name in _SCALARS:
            field.type = _SCALARS[type_name]
        else:
            field.type_name = type_name
        pairs = [o for o in options if o not in "[],="]
        if len(pairs) % 2:
            raise self._fault(f"an option of '{field.name}' has no value")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if key == "packed":
                field.options.packed = value == "true"
            elif key == "default":
                field.default_value = value.strip('"')
            else:
                raise self._fault(f"unexpected '{key}'")


def parse(text: str, name: str = FILE_NAME) -> descriptor_pb2.FileDescriptorProto:
    """Return the descriptor of the text of a ``.proto`` file; see ``complete``.

    Raises:
        ValueError: the text uses more of the language than ``caffe.proto`` does.
    """
    file = descriptor_pb2.FileDescriptorProto(name=name)
    _Reader(text, file).read()
    return file


def complete(
    file: descriptor_pb2.FileDescriptorProto, imported: FileDescriptor | None = None
) -> None:
    """Give fields of a message or enum type their full names, and messages ``foreign``.

    Args:
        file: what ``parse`` has read.
        imported: the file whose types are used where this one has none of a name.

    Raises:
        ValueError: there is no type of a name.
    """
    enums = {e.name for e in file.enum_type}
    enums |= {f"{m.name}.{e.name}" for m in file.message_type for e in m.enum_type}
    known = enums | {message.name for message in file.message_type}
    for message in file.message_type:
        for field in message.field:
            if not field.type_name:
                continue
            package, is_enum = file.package, field.type_name in enums
            if field.type_name not in known:
                package, is_enum = _imported(imported, field.type_name, message.name)
            field.type = _Field.TYPE_ENUM if is_enum else _Field.TYPE_MESSAGE
            field.type_name = f".{package}.{field.type_name}"
    _make_room_for_forks(file)


def _imported(file: FileDescriptor | None, name: str, message: str) -> tuple[str, bool]:
    """Return the package of another file's type, and whether it is an enum."""
    if file is not None and name in file.enum_types_by_name:
        return file.package, True
    if file is not None and name in file.message_types_by_name:
        return file.package, False
    raise ValueError(f"message {message}: there is no type '{name}'")


def _make_room_for_forks(file: descriptor_pb2.FileDescriptorProto) -> None:
    """Give every message ``foreign``: the fields that only forks know (see ForeignField)."""
    for message in file.message_type:
        if message.name != "ForeignField":
            message.field.add(
                name=FOREIGN,
                number=FOREIGN_NUMBER,
                label=_Field.LABEL_REPEATED,
                type=_Field.TYPE_MESSAGE,
                type_name=".caffe.ForeignField",
            )


def _add_backends(file: descriptor_pb2.FileDescriptorProto) -> None:
    """Give ``DataParameter.DB`` the backends of ``data/backends`` that it does not list.

    A value follows from the name alone, so that it is the same in every process.
    """
    (enum,) = (
        e
        for m in file.message_type
        if m.name == "DataParameter"
        for e in m.enum_type
        if e.name == "DB"
    )
    known = {value.name for value in enum.value}
    folder = Path(__file__).parents[1] / "data" / "backends"
    for path in sorted(folder.glob("[a-z]*.py")):
        name = path.stem.upper()
        if name not in known:
            enum.value.add(name=name, number=_FIRST_BACKEND + zlib.crc32(name.encode()) // 4)


@cache
def pool() -> descriptor_pool.DescriptorPool:
    """Return the private pool that holds ``caffe.proto``."""
    text = Path(__file__).with_name("caffe.proto").read_text(encoding="utf-8")
    file = parse(text)
    _add_backends(file)
    complete(file)
    private = descriptor_pool.DescriptorPool()
    private.AddSerializedFile(file.SerializeToString())
    return private


def descriptor() -> FileDescriptor:
    """Return the descriptor of ``caffe.proto``."""
    return pool().FindFileByName(FILE_NAME)


@cache
def messages() -> dict[str, Any]:
    """Return the message classes by name without package: ``{"NetParameter": <class>, …}``."""
    return {
        name: message_factory.GetMessageClass(message)
        for name, message in descriptor().message_types_by_name.items()
    }


def enums() -> dict[str, Any]:
    """Return the top-level enums by name: ``enums()["Phase"].Name(0) == "TRAIN"``."""
    return {name: EnumTypeWrapper(enum) for name, enum in descriptor().enum_types_by_name.items()}


def enum_values() -> dict[str, int]:
    """Return the values of the top-level enums: ``{"TRAIN": 0, "TEST": 1}``."""
    return {v.name: v.number for e in descriptor().enum_types_by_name.values() for v in e.values}
