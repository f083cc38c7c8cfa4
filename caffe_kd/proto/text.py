"""Reads and writes prototxt, protobuf's text format, and records the line of every layer.

A parser of our own, because protobuf's keeps no positions: each message that has a ``source_line``
field (the layers) gets ``file:line`` there, which follows it through upgrade, composition and
filtering, so that any later message about the layer can give the location. Writing clears it.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from google.protobuf import text_encoding, text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from ..core.errors import ParseError, did_you_mean
from ..core.files import read_bytes, reading, write_atomically
from .dialects import WORDS, rule_for, rule_for_word
from .scalars import Scalars
from .schema import FOREIGN
from .user_blocks import field_of, plain_names, value_of

Message = TypeVar("Message", bound=Any)

MAX_BYTES = 8 << 20  # ten times the largest public net
MAX_DEPTH = 100  # nested blocks of a fork; those of the schema are never as deep

# Limit of the messages' memory, since a field or block of few letters can take much of it: room for
# some ten thousand layers, beside what the file's length allows.
_ROOM_BYTES = 24 << 20
_BLOCK_BYTES, _FIELD_BYTES, _ITEM_BYTES = 48, 8, 16  # of a block, each field it may have, a value
_WORD_BYTES = 128  # of a fork's field or value, which is kept as text

# A ForeignField as protobuf prints it.
_FOREIGN_FIELD = re.compile(r'^( *)foreign \{\n *text: "((?:[^"\\]|\\.)*)"\n *\}\n', re.MULTILINE)

HIDDEN = ("source_line", FOREIGN)  # fields of the schema that no prototxt has
_OTHER_FILE = {"NetParameter": "SolverParameter", "SolverParameter": "NetParameter"}
# No layer, net or solver is built from these, so a misspelt field in them would go unnoticed.
_STRICT = ("BlobProto", "BlobShape")


def read(path: str | Path, message: Message) -> Message:
    """Read a prototxt file into ``message`` and return it.

    Raises:
        ParseError: the file is missing, is not prototxt, or has an unknown field or wrong value;
            the message names file and line.
    """
    return parse(_decoded(path), message, str(path))


def read_several(path: str | Path, make: Callable[[], Message]) -> list[tuple[int, Message]]:
    """Read a prototxt file of one message or several, each begun by a ``name:`` at the top level.

    Args:
        path: the file.
        make: makes an empty message.

    Returns:
        Each message and the line where it begins.

    Raises:
        ParseError: as ``read``; or fields come before the first of several names.
    """
    return _Parser(_decoded(path), str(path)).messages(make)


def _decoded(path: str | Path) -> str:
    data = _bytes(path)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # from Windows, by redirection
        data = data.decode("utf-16", "replace").encode()
    if b"\0" in data[:4096]:
        raise ParseError(
            "is not a prototxt: it holds binary data. Weights (.caffemodel) are given with "
            "-weights",
            str(path),
        )
    data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:  # comments in another encoding; names in nets are ASCII
        return data.decode("latin-1")


def _bytes(path: str | Path) -> bytes:
    with reading(path) as size:
        if size > MAX_BYTES:
            raise ParseError(
                f"is no prototxt that is read: {size} bytes of text, where {MAX_BYTES} are the "
                "most. A net's weights belong in a .caffemodel, given with -weights",
                str(path),
            )
    return read_bytes(path, MAX_BYTES)


def parse(text: str, message: Message, name: str = "<prototxt>", line: int = 1) -> Message:
    """Parse prototxt ``text`` into ``message``.

    Args:
        text: the prototxt.
        message: what to read it into.
        name: the file's name in messages.
        line: the file's line where ``text`` begins.
    """
    _Parser(text, name, line).fields(message, end="")
    return message


def locate(path: str | Path, field: str) -> str:
    """Return ``file:line`` of the first mention of a field in a prototxt, or the file alone."""
    try:
        lines = _decoded(path).split("\n")  # splitlines() splits at more characters
    except ParseError:
        return str(path)
    mention = re.compile(rf"(?:^|[\s}}]){field}\s*[:{{<]")
    for number, line in enumerate(lines, 1):
        if mention.search(line.split("#")[0]):
            return f"{path}:{number}"
    return str(path)


def clear_source_lines(message: Any) -> None:
    """Remove the locations where layers were read, here and in every message below."""
    for field, value in message.ListFields():
        if field.name == "source_line":
            message.ClearField("source_line")
        elif field.message_type is not None:
            for item in value if field.is_repeated else [value]:
                clear_source_lines(item)


def to_text(message: Any, as_utf8: bool = True) -> str:
    """Return a message as prototxt, without the locations where its layers were read.

    Args:
        message: any message of the schema.
        as_utf8: whether non-ASCII letters are written as they are, or as escapes.
    """
    copy = type(message)()
    copy.CopyFrom(message)
    clear_source_lines(copy)
    prototxt = text_format.MessageToString(
        copy, use_short_repeated_primitives=False, as_utf8=as_utf8
    )
    return plain_names(_FOREIGN_FIELD.sub(_as_written, prototxt))


def _as_written(match: re.Match[str]) -> str:
    """Return a fork's field as in its file, in place of the printed ForeignField."""
    indent, escaped = match.groups()
    lines = text_encoding.CUnescape(escaped).decode("utf-8").split("\n")
    return "".join(f"{indent}{line}\n" for line in lines)


def write(path: str | Path, message: Any) -> None:
    """Write a message as prototxt, atomically."""
    write_atomically(path, to_text(message).encode("utf-8"))


class _Parser(Scalars):
    """A recursive descent over the tokens of one file; no message of the schema contains itself."""

    def __init__(self, text: str, name: str, line: int = 1) -> None:
        super().__init__(plain_names(text), name, line)
        self._bytes_left = _ROOM_BYTES + len(text)
        self._around: list[Any] = []  # the messages that are being read, outermost first

    def _spend(self, count: int) -> None:
        """Count the messages' memory, which a small file must not exhaust."""
        self._bytes_left -= count
        if self._bytes_left < 0:
            self.fail(
                "the blocks and values up to here take more memory than any real net: "
                f"{_ROOM_BYTES >> 20} MB plus the file's length is the limit"
            )

    def messages(self, make: Callable[[], Message]) -> list[tuple[int, Message]]:
        """Read the whole file as messages, each from a ``name`` to the next."""
        first, line = self.peek(), self.line
        read: list[tuple[int, Message]] = []
        while not read or self.kind != "end":
            read.append((self.line, make()))
            self.fields(read[-1][1], end="", up_to="name")
        if len(read) > 1 and first != "name":
            self.fail_at(
                line,
                f"each of several nets in one file begins with its name, but '{first[:40]}' "
                f"comes before the first of {len(read)}",
            )
        return read

    def fields(self, message: Any, end: str, up_to: str | None = None) -> None:
        """Read the fields of one message up to the mark that ends it.

        A repeated field ``up_to`` ends the message too, and begins the next.
        """
        descriptor: Descriptor = message.DESCRIPTOR
        by_name = descriptor.fields_by_name
        opened = self.taken[2]
        seen: dict[str, int] = {}
        while True:
            kind, word, line = self.take()
            if kind == "end" and end:
                self.fail_at(
                    line, f"the file ends, but the block opened at line {opened} has no '{end}'"
                )
            if kind == "end" or (kind == "mark" and word == end):
                return
            if kind != "word":
                self.fail_at(line, f"a field name was expected. Received: {word[:40]!r}")
            field = by_name.get(word) or field_of(descriptor, word)
            if field is None or word in HIDDEN or self._is_foreign(descriptor, field):
                self._keep(message, field, word, line)
                continue
            if not field.is_repeated:
                if word in seen and word == up_to:
                    self.put_back()
                    return
                if word in seen:
                    self._given_twice(descriptor, word, line, seen[word])
                seen[word] = line
            self._field(message, field, line)
            self.skip(",", ";")

    def _given_twice(self, descriptor: Descriptor, word: str, line: int, first: int) -> NoReturn:
        several = descriptor.name == "NetParameter" and word == "name"
        hint = ". A file of several nets is one that a solver names as its net" if several else ""
        self.fail_at(
            line, f"'{word}' is given twice, first at line {first}, but takes one value{hint}"
        )

    def _keep(self, message: Any, field: FieldDescriptor | None, word: str, line: int) -> None:
        """Keep a field that the schema lacks as written.

        Building the layer, net or solver refuses it. It is an error here where another mistake is
        recognised.
        """
        descriptor: Descriptor = message.DESCRIPTOR
        if word in HIDDEN or (field is None and rule_for(descriptor.name, word) is None):
            hint = self._other_fault(descriptor, word)
            if hint is not None:
                self.fail_at(line, f"{descriptor.name} has no field named '{word[:100]}'.{hint}")
        lines = self._foreign(word, line, 0, field is not None and self._lacks_value())
        message.foreign.add(text="\n".join(lines), source_line=f"{self.name}:{line}")
        self.skip(",", ";")

    def _other_fault(self, descriptor: Descriptor, word: str) -> str | None:
        if word in HIDDEN:
            return ""
        other = _OTHER_FILE.get(descriptor.name)
        if other and word in descriptor.file.message_types_by_name[other].fields_by_name:
            kind, wanted = ("solver", "net") if other == "SolverParameter" else ("net", "solver")
            return f" This seems to be a {kind}; a {wanted} is expected here."
        for outer in self._around:
            field = outer.fields_by_name.get(word)
            if field is not None and field.message_type is not None and outer is not descriptor:
                return f" {outer.name} has: is a '}}' missing before this line?"
        return did_you_mean(word, descriptor.fields_by_name) if descriptor.name in _STRICT else None

    def _is_foreign(self, descriptor: Descriptor, field: FieldDescriptor) -> bool:
        """Return whether only a fork gives a field of Caffe the value that comes next."""
        if field.enum_type is None and (descriptor.name, field.name) not in WORDS:
            return False  # the common case, checked first
        value = self.peek_behind(":")
        if field.enum_type is not None and value in field.enum_type.values_by_name:
            return False
        if rule_for_word(descriptor.name, field.name, value) is not None:
            return True
        return rule_for_word(descriptor.name, field.name, "") is not None and self._lacks_value()

    def _lacks_value(self) -> bool:
        """Return whether the next field begins, or the file ends, where a value would be."""
        if self.peek() != ":":
            return False
        (kind, word, _), (_, behind, _) = self.ahead(1), self.ahead(2)
        return kind == "end" or word == "}" or (kind == "word" and behind in (":", "{"))

    def _foreign(self, word: str, line: int, depth: int, is_empty: bool = False) -> list[str]:
        """Read a field whose type is unknown; return the lines to write for it."""
        self._spend(_WORD_BYTES)
        indent = "  " * depth
        colon = self.skip(":")
        if is_empty:
            return [f"{indent}{word}:"]
        if not self.skip("{", "<"):
            if not colon:
                self.fail(f"':' was expected after '{word[:40]}'. Received: {self.peek()[:40]!r}")
            return [f"{indent}{word}: {self._foreign_value()}"]
        if depth == MAX_DEPTH:
            self.fail_at(line, f"blocks are nested more than {MAX_DEPTH} deep")
        end = "}" if self.taken[1] == "{" else ">"
        lines = [f"{indent}{word} {{"]
        while not self.skip(end):
            kind, name, at = self.take()
            if kind == "end":
                self.fail_at(
                    at, f"the file ends, but the block opened at line {line} has no '{end}'"
                )
            if kind != "word":
                self.fail_at(at, f"a field name was expected. Received: {name[:40]!r}")
            lines += self._foreign(name, at, depth + 1)
            self.skip(",", ";")
        return [*lines, f"{indent}}}"]

    def _foreign_value(self) -> str:
        """Read a scalar or a list of scalars."""
        if not self.skip("["):
            return self._foreign_scalar()
        values = []
        while not self.skip("]"):
            self._spend(_WORD_BYTES)
            values.append(self._foreign_scalar())
            if not self.skip(",") and self.peek() != "]":
                self.fail(f"',' or ']' was expected. Received: {self.peek()[:40]!r}")
        return f"[{', '.join(values)}]"

    def _foreign_scalar(self) -> str:
        """Read a number, a word or strings that follow one another."""
        sign = "-" if self.skip("-") else ""
        kind, word, line = self.take()
        if kind not in ("word", "number", "string"):
            self.fail_at(line, f"a value was expected. Received: {word[:40]!r}")
        while kind == "string" and self.kind == "string":
            word += f" {self.take()[1]}"
        return sign + word

    def _field(self, message: Any, field: FieldDescriptor, line: int) -> None:
        colon = self.skip(":")
        if field.message_type is None and not colon:
            self.fail(f"':' was expected after '{field.name}'. Received: {self.peek()[:40]!r}")
        if field.is_repeated and self.skip("["):
            while not self.skip("]"):
                self._value(message, field, line)
                if not self.skip(",") and self.peek() != "]":
                    self.fail(f"',' or ']' was expected. Received: {self.peek()[:40]!r}")
        else:
            self._value(message, field, line)

    def _value(self, message: Any, field: FieldDescriptor, line: int) -> None:
        if field.message_type is not None:
            target = value_of(message, field)
            self._spend(_BLOCK_BYTES + _FIELD_BYTES * len(field.message_type.fields))
            self._block(target.add() if field.is_repeated else target, field, line)
        elif field.is_repeated:
            self._spend(_ITEM_BYTES)
            getattr(message, field.name).append(self.scalar(field))
        else:
            setattr(message, field.name, self.scalar(field))

    def _block(self, message: Any, field: FieldDescriptor, line: int) -> None:
        if not self.skip("{", "<"):
            self.fail(
                f"'{{' was expected after '{field.name}', which is a block. "
                f"Received: {self.peek()[:40]!r}"
            )
        if "source_line" in message.DESCRIPTOR.fields_by_name:
            message.source_line = f"{self.name}:{line}"
        message.SetInParent()
        end = "}" if self.taken[1] == "{" else ">"
        self._around.append(field.containing_type)
        self.fields(message, end)
        self._around.pop()
