"""Reads and writes prototxt, protobuf's text format, and remembers the line of every layer.

A reader of our own, since protobuf's keeps no positions: each message that has a ``source_line``
field (the layers) gets ``file:line`` there, which follows it through upgrade, composition and
filtering, so that any later message about the layer can name the place. Writing clears it.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from google.protobuf import text_encoding, text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from ..errors import ParseError, did_you_mean
from ..files import read_bytes, write_atomically
from .dialects import rule_for, rule_for_word
from .schema import FOREIGN

Message = TypeVar("Message", bound=Any)

MAX_BYTES = 64 << 20  # far above any net; a larger file is not prototxt
MAX_STRING = 4 << 20  # characters; an escape takes a multiple of itself while it is read
MAX_DEPTH = 100  # blocks inside blocks, of a fork: those of the schema cannot go as deep

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
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)", re.DOTALL)
_ESCAPED = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f"}
_ESCAPED |= {b"v": b"\v", b"\\": b"\\", b"'": b"'", b'"': b'"', b"?": b"?"}

# A ForeignField as protobuf prints it.
_FOREIGN_FIELD = re.compile(r'^( *)foreign \{\n *text: "((?:[^"\\]|\\.)*)"\n *\}\n', re.MULTILINE)

_F = FieldDescriptor
_INTEGER_BITS = {_F.TYPE_INT32: (-(2**31), 2**31), _F.TYPE_INT64: (-(2**63), 2**63)}
_INTEGER_BITS |= {_F.TYPE_UINT32: (0, 2**32), _F.TYPE_UINT64: (0, 2**64)}
_HIDDEN = ("source_line", FOREIGN)  # fields of the schema that no prototxt has
_TYPE_WORDS = {
    _F.TYPE_STRING: 'a string in quotes, as "name"',
    _F.TYPE_BYTES: 'a string in quotes, as "name"',
    _F.TYPE_BOOL: "true or false",
    _F.TYPE_FLOAT: "a number",
    _F.TYPE_DOUBLE: "a number",
}


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
    data = read_bytes(path, MAX_BYTES)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # from Windows, by redirection
        return _lines_as_unix(data.decode("utf-16", "replace"))
    if b"\0" in data[:4096]:
        raise ParseError(
            "is not a prototxt: it holds binary data. Weights (.caffemodel) are given with "
            "-weights",
            str(path),
        )
    try:
        return _lines_as_unix(data.decode("utf-8-sig"))
    except UnicodeDecodeError:  # comments in another encoding; the names of nets are ASCII
        return _lines_as_unix(data.decode("latin-1"))


def _lines_as_unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse(text: str, message: Message, name: str = "<prototxt>", line: int = 1) -> Message:
    """Parse prototxt ``text`` into ``message``.

    Args:
        text: the prototxt.
        message: what to read it into.
        name: stands for the file in messages.
        line: the file's line where ``text`` begins.
    """
    _Parser(text, name, line).fields(message, end="")
    return message


def locate(path: str | Path, field: str) -> str:
    """Return ``file:line`` of the first mention of a field in a prototxt, or the file alone."""
    try:
        lines = _decoded(path).split("\n")  # splitlines() knows more ends of lines
    except ParseError:
        return str(path)
    mention = re.compile(rf"(?:^|[\s}}]){field}\s*[:{{<]")
    for number, line in enumerate(lines, 1):
        if mention.search(line.split("#")[0]):
            return f"{path}:{number}"
    return str(path)


def clear_source_lines(message: Any) -> None:
    """Remove the places where layers were read, here and in every message below."""
    for field, value in message.ListFields():
        if field.name == "source_line":
            message.ClearField("source_line")
        elif field.message_type is not None:
            for item in value if field.is_repeated else [value]:
                clear_source_lines(item)


def to_text(message: Any, as_utf8: bool = True) -> str:
    """Return a message as prototxt, without the places where its layers were read.

    Args:
        message: any message of the schema.
        as_utf8: whether letters beyond ASCII stand as they are, or as escapes.
    """
    copy = type(message)()
    copy.CopyFrom(message)
    clear_source_lines(copy)
    prototxt = text_format.MessageToString(
        copy, use_short_repeated_primitives=False, as_utf8=as_utf8
    )
    return _FOREIGN_FIELD.sub(_as_written, prototxt)


def _as_written(match: re.Match[str]) -> str:
    """Return a field of a fork as it stood in its file, where ForeignField was printed."""
    indent, escaped = match.groups()
    lines = text_encoding.CUnescape(escaped).decode("utf-8").split("\n")
    return "".join(f"{indent}{line}\n" for line in lines)


def write(path: str | Path, message: Any) -> None:
    """Write a message as prototxt, atomically."""
    write_atomically(path, to_text(message).encode("utf-8"))


class _Parser:
    """A recursive descent over the tokens of one file; no message of the schema holds itself."""

    def __init__(self, text: str, name: str, line: int = 1) -> None:
        self._name = name
        self._tokens = list(self._tokenize(text, line))
        self._next = 0

    def _tokenize(self, text: str, line: int) -> Any:
        for match in _TOKEN.finditer(text):
            kind = match.lastgroup
            if kind == "newline":
                line += 1
            elif kind == "other":
                self._fail_at(line, *self._stray(match.group()))
            elif kind == "left_out":
                self._fail_at(
                    line, "'...' stands where layers were left out: write them here, then run again"
                )
            elif kind != "space":
                yield kind, match.group(), line
        yield "end", "", line

    @staticmethod
    def _stray(character: str) -> tuple[str]:
        if character in "\"'":
            return (f"a string that begins with {character} does not end on its line",)
        return (f"not a prototxt: unexpected character {character!r}",)

    def _fail_at(self, line: int, message: str) -> NoReturn:
        raise ParseError(message, f"{self._name}:{line}")

    def _fail(self, message: str) -> NoReturn:
        self._fail_at(self._tokens[self._next][2], message)

    def _peek(self) -> str:
        return self._tokens[self._next][1]

    def _take(self) -> tuple[str, str, int]:
        token = self._tokens[self._next]
        if token[0] != "end":
            self._next += 1
        return token

    def _skip(self, *marks: str) -> bool:
        if self._peek() in marks and self._tokens[self._next][0] == "mark":
            self._next += 1
            return True
        return False

    def messages(self, make: Callable[[], Message]) -> list[tuple[int, Message]]:
        """Read the whole file as messages, each from a ``name`` to the next."""
        first = self._tokens[0]
        read: list[tuple[int, Message]] = []
        while not read or self._tokens[self._next][0] != "end":
            read.append((self._tokens[self._next][2], make()))
            self.fields(read[-1][1], end="", up_to="name")
        if len(read) > 1 and first[1] != "name":
            self._fail_at(
                first[2],
                f"each of several nets in one file begins with its name, but '{first[1][:40]}' "
                f"comes before the first of {len(read)}",
            )
        return read

    def fields(self, message: Any, end: str, up_to: str | None = None) -> None:
        """Read the fields of one message up to the mark that ends it.

        A field ``up_to`` that comes again ends the message too, and begins the next.
        """
        descriptor: Descriptor = message.DESCRIPTOR
        by_name = descriptor.fields_by_name
        opened = self._tokens[self._next - 1][2]
        seen: dict[str, int] = {}
        while True:
            kind, word, line = self._take()
            if kind == "end" and end:
                self._fail_at(
                    line, f"the file ends, but the block opened at line {opened} has no '{end}'"
                )
            if kind == "end" or (kind == "mark" and word == end):
                return
            if kind != "word":
                self._fail_at(line, f"a field name was expected. Received: {word[:40]!r}")
            field = by_name.get(word) if word not in _HIDDEN else None
            if self._is_foreign(descriptor, field, word):
                lines = self._foreign(word, line, 0)
                message.foreign.add(text="\n".join(lines), source_line=f"{self._name}:{line}")
                self._skip(",", ";")
                continue
            if field is None:
                self._unknown(descriptor, word, line)
            if not field.is_repeated:
                if word in seen and word == up_to:
                    self._next -= 1
                    return
                if word in seen:
                    self._given_twice(descriptor, word, line, seen[word])
                seen[word] = line
            self._field(message, field, line)
            self._skip(",", ";")

    def _given_twice(self, descriptor: Descriptor, word: str, line: int, first: int) -> NoReturn:
        several = descriptor.name == "NetParameter" and word == "name"
        hint = ". A file of several nets is one that a solver names as its net" if several else ""
        self._fail_at(
            line, f"'{word}' is given twice, first at line {first}, but takes one value{hint}"
        )

    def _unknown(self, descriptor: Descriptor, word: str, line: int) -> NoReturn:
        names = [n for n in descriptor.fields_by_name if n not in _HIDDEN]
        self._fail_at(
            line,
            f"{descriptor.name} has no field named '{word[:100]}'.{did_you_mean(word, names)}",
        )

    def _is_foreign(self, descriptor: Descriptor, field: FieldDescriptor | None, word: str) -> bool:
        """Say whether a field, or the word that an enum field is given, is of a known fork."""
        if field is None:
            return rule_for(descriptor.name, word) is not None or (
                descriptor.name == "V1LayerParameter"  # of a fork that had the layer in 2014
                and word.endswith("_param")
                and word in descriptor.file.message_types_by_name["LayerParameter"].fields_by_name
            )
        if field.enum_type is None:
            return False
        value = self._tokens[min(self._next + (self._peek() == ":"), len(self._tokens) - 1)][1]
        is_known = value in field.enum_type.values_by_name
        return not is_known and rule_for_word(descriptor.name, word, value) is not None

    def _foreign(self, word: str, line: int, depth: int) -> list[str]:
        """Read a field whose type is unknown; return it as the lines that are written for it."""
        indent = "  " * depth
        colon = self._skip(":")
        if not self._skip("{", "<"):
            if not colon:
                self._fail(f"':' was expected after '{word[:40]}'. Received: {self._peek()[:40]!r}")
            return [f"{indent}{word}: {self._foreign_value()}"]
        if depth == MAX_DEPTH:
            self._fail_at(line, f"blocks are nested more than {MAX_DEPTH} deep")
        end = "}" if self._tokens[self._next - 1][1] == "{" else ">"
        lines = [f"{indent}{word} {{"]
        while not self._skip(end):
            kind, name, at = self._take()
            if kind == "end":
                self._fail_at(
                    at, f"the file ends, but the block opened at line {line} has no '{end}'"
                )
            if kind != "word":
                self._fail_at(at, f"a field name was expected. Received: {name[:40]!r}")
            lines += self._foreign(name, at, depth + 1)
            self._skip(",", ";")
        return [*lines, f"{indent}}}"]

    def _foreign_value(self) -> str:
        """Read a scalar or a list of scalars."""
        if not self._skip("["):
            return self._foreign_scalar()
        values = []
        while not self._skip("]"):
            values.append(self._foreign_scalar())
            if not self._skip(",") and self._peek() != "]":
                self._fail(f"',' or ']' was expected. Received: {self._peek()[:40]!r}")
        return f"[{', '.join(values)}]"

    def _foreign_scalar(self) -> str:
        """Read a number, a word or strings that follow one another."""
        sign = "-" if self._skip("-") else ""
        kind, word, line = self._take()
        if kind not in ("word", "number", "string"):
            self._fail_at(line, f"a value was expected. Received: {word[:40]!r}")
        while kind == "string" and self._tokens[self._next][0] == "string":
            word += f" {self._take()[1]}"
        return sign + word

    def _field(self, message: Any, field: FieldDescriptor, line: int) -> None:
        colon = self._skip(":")
        if field.message_type is None and not colon:
            self._fail(f"':' was expected after '{field.name}'. Received: {self._peek()[:40]!r}")
        if field.is_repeated and self._skip("["):
            while not self._skip("]"):
                self._value(message, field, line)
                if not self._skip(",") and self._peek() != "]":
                    self._fail(f"',' or ']' was expected. Received: {self._peek()[:40]!r}")
        else:
            self._value(message, field, line)

    def _value(self, message: Any, field: FieldDescriptor, line: int) -> None:
        if field.message_type is not None:
            target = getattr(message, field.name)
            self._block(target.add() if field.is_repeated else target, field, line)
        elif field.is_repeated:
            getattr(message, field.name).append(self._scalar(field))
        else:
            setattr(message, field.name, self._scalar(field))

    def _block(self, message: Any, field: FieldDescriptor, line: int) -> None:
        if not self._skip("{", "<"):
            self._fail(
                f"'{{' was expected after '{field.name}', which is a block. "
                f"Received: {self._peek()[:40]!r}"
            )
        if "source_line" in message.DESCRIPTOR.fields_by_name:
            message.source_line = f"{self._name}:{line}"
        message.SetInParent()
        end = "}" if self._tokens[self._next - 1][1] == "{" else ">"
        self.fields(message, end)

    def _scalar(self, field: FieldDescriptor) -> Any:
        negative = self._skip("-")
        kind, word, line = self._take()
        if field.enum_type is not None:
            return self._enum_value(field, kind, word, line, negative)
        if field.type in _INTEGER_BITS:
            return self._integer(field, kind, word, line, negative)
        if field.type in (_F.TYPE_FLOAT, _F.TYPE_DOUBLE):
            number = self._number(kind, word)
            if number is not None:
                return -number if negative else number
        elif field.type == _F.TYPE_BOOL and not negative:
            if word in ("true", "True", "t", "1"):
                return True
            if word in ("false", "False", "f", "0"):
                return False
        elif kind == "string" and not negative:
            return self._string(field, word, line)
        self._fail_at(
            line, f"'{field.name}' takes {_TYPE_WORDS[field.type]}. Received: {word[:40]}"
        )

    def _string(self, field: FieldDescriptor, word: str, line: int) -> str | bytes:
        """Return what one or several strings next to each other mean."""
        octets = self._octets(word, line)
        while self._tokens[self._next][0] == "string":
            _, word, line = self._take()
            octets += self._octets(word, line)
        if field.type == _F.TYPE_BYTES:
            return octets
        try:
            return octets.decode("utf-8")
        except UnicodeDecodeError:
            self._fail_at(line, f"'{field.name}' takes UTF-8. Received: {octets[:40]!r}")

    def _octets(self, token: str, line: int) -> bytes:
        """Return what a string in quotes means; its escapes stand for octets."""
        if len(token) > MAX_STRING:
            self._fail_at(line, f"a string of {len(token)} characters: at most {MAX_STRING}")

        def unescape(match: re.Match[bytes]) -> bytes:
            escape = match.group(1)
            if escape[:1] == b"x" and len(escape) > 1:
                return bytes([int(escape[1:], 16)])
            if escape.isdigit():
                return bytes([int(escape, 8) & 0xFF])
            if escape not in _ESCAPED:
                word = match.group().decode("utf-8", "replace")
                self._fail_at(
                    line, f"'{word}' in a string is no escape; for a backslash write '\\\\'"
                )
            return _ESCAPED[escape]

        return _ESCAPE.sub(unescape, token[1:-1].encode("utf-8"))

    @staticmethod
    def _number(kind: str, word: str) -> float | None:
        if kind == "number":
            if word[:2] in ("0x", "0X"):
                return float(int(word, 16)) if len(word) < 200 else math.inf  # beyond any float
            return float(word.rstrip("fF"))
        return float(word) if word.lower() in ("inf", "infinity", "nan") else None

    def _integer(
        self, field: FieldDescriptor, kind: str, word: str, line: int, negative: bool
    ) -> int:
        low, high = _INTEGER_BITS[field.type]
        if kind == "number" and re.fullmatch(r"\d+|0[xX][0-9a-fA-F]+", word):
            octal = len(word) > 1 and word.isdigit() and word[0] == "0"
            try:
                value = int(word, 8) if octal else int(word, 0)
            except ValueError:  # a digit 8 or 9 in an octal number, or far too many digits
                value = high
            value = -value if negative else value
            if low <= value < high:
                return value
        sign = "-" if negative else ""
        self._fail_at(
            line,
            f"'{field.name}' takes a whole number of {low} to {high - 1}. "
            f"Received: {sign}{word[:40]}",
        )

    def _enum_value(
        self, field: FieldDescriptor, kind: str, word: str, line: int, negative: bool
    ) -> int:
        enum = field.enum_type
        assert enum is not None
        if word in enum.values_by_name and not negative:
            return enum.values_by_name[word].number
        is_number = kind == "number" and word.isdigit() and len(word) < 10 and not negative
        if is_number and int(word) in enum.values_by_number:
            return int(word)
        known = list(enum.values_by_name)
        some = ", ".join(known[:6]) + (", …" if len(known) > 6 else "")
        self._fail_at(
            line,
            f"'{field.name}' takes one of {some}. Received: {word[:40]}."
            f"{did_you_mean(word, known)}",
        )
