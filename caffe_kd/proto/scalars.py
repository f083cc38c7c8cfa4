"""The values of a prototxt: numbers, words and strings, as their fields take them."""

from __future__ import annotations

import math
import re
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from ..core.errors import did_you_mean
from .tokens import Tokens

MAX_STRING = 4 << 20  # characters; reading escapes takes several times their size

_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)", re.DOTALL)
_ESCAPED = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f"}
_ESCAPED |= {b"v": b"\v", b"\\": b"\\", b"'": b"'", b'"': b'"', b"?": b"?"}

_F = FieldDescriptor
_INTEGER_BITS = {_F.TYPE_INT32: (-(2**31), 2**31), _F.TYPE_INT64: (-(2**63), 2**63)}
_INTEGER_BITS |= {_F.TYPE_UINT32: (0, 2**32), _F.TYPE_UINT64: (0, 2**64)}
_TYPE_WORDS = {
    _F.TYPE_STRING: 'a string in quotes, as "name"',
    _F.TYPE_BYTES: 'a string in quotes, as "name"',
    _F.TYPE_BOOL: "true or false",
    _F.TYPE_FLOAT: "a number",
    _F.TYPE_DOUBLE: "a number",
}


class Scalars(Tokens):
    """Reads tokens as the values of fields."""

    def scalar(self, field: FieldDescriptor) -> Any:
        """Read the value of a field that is not a block."""
        negative = self.skip("-")
        kind, word, line = self.take()
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
        self.fail_at(line, f"'{field.name}' takes {_TYPE_WORDS[field.type]}. Received: {word[:40]}")

    def _string(self, field: FieldDescriptor, word: str, line: int) -> str | bytes:
        """Return the value of one or several adjacent strings."""
        octets = self._octets(word, line)
        while self.kind == "string":
            _, word, line = self.take()
            octets += self._octets(word, line)
        if field.type == _F.TYPE_BYTES:
            return octets
        try:
            return octets.decode("utf-8")
        except UnicodeDecodeError:
            self.fail_at(line, f"'{field.name}' takes UTF-8. Received: {octets[:40]!r}")

    def _octets(self, token: str, line: int) -> bytes:
        """Return the value of a quoted string; its escapes are bytes."""
        if len(token) > MAX_STRING:
            self.fail_at(line, f"a string of {len(token)} characters: at most {MAX_STRING}")

        written = token[1:-1].encode("utf-8")
        meant = bytearray()
        end = 0
        for match in _ESCAPE.finditer(written):
            meant += written[end : match.start()] + self._unescaped(match, line)
            end = match.end()
        return bytes(meant + written[end:])

    def _unescaped(self, match: re.Match[bytes], line: int) -> bytes:
        escape = match.group(1)
        if escape[:1] == b"x" and len(escape) > 1:
            return bytes([int(escape[1:], 16)])
        if escape.isdigit():
            return bytes([int(escape, 8) & 0xFF])
        if escape not in _ESCAPED:
            word = match.group().decode("utf-8", "replace")
            self.fail_at(
                line, f"'{word}' in a string is not an escape; for a backslash write '\\\\'"
            )
        return _ESCAPED[escape]

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
        self.fail_at(
            line,
            f"'{field.name}' takes an integer of {low} to {high - 1}. Received: {sign}{word[:40]}",
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
        self.fail_at(
            line,
            f"'{field.name}' takes one of {some}. Received: {word[:40]}."
            f"{did_you_mean(word, known)}",
        )
