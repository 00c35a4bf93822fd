"""Protocol buffers, read by what a message must hold: their bytes, and their text.

Sources: protobuf.dev, "Encoding" and "Text Format Language Specification". A message is described
by its fields, in code; nothing is generated, and nothing is guessed. Both forms give the same:
numbers, bytes, and messages by the names of their fields, of a repeated field a list.

It refuses fields that are not described, ones that stand twice, numbers that are not written in
their shortest form, and whatever else is no message of that description. Fixed-size numbers,
groups, extensions and lists in brackets are not read: no message here has them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from garrison.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Mapping

# "Base 128 varints": 64 bits in seven a byte.
_MAX_VARINT = 10
_VARINT, _DELIMITED = 0, 2
# Whitespace and comments, then one token.
_TOKEN = re.compile(
    rb"(?:\s|#[^\n]*(?:\n|\Z))*(?:"
    rb"(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    # After a zero that does not stand alone it would be octal, which nobody writes.
    rb"|(?P<number>0[xX][0-9A-Fa-f]{1,16}|0|[1-9][0-9]{0,19})(?![A-Za-z0-9_.])"
    rb"|(?P<text>\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*')"
    rb"|(?P<mark>[:{}<>,;])"
    rb"|(?P<end>\Z))"
)
_ESCAPE = re.compile(
    rb"\\(?:x([0-9A-Fa-f]{1,2})|([0-7]{1,3})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))"
)
_LETTERS = dict(zip(b"abfnrtv\\'\"?", b"\a\b\f\n\r\t\v\\'\"?", strict=True))
_CLOSING = {b"{": b"}", b"<": b">"}


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a message.

    Attributes:
        name: its name.
        kind: a number, bytes or text, the name of one of an enumeration (in bytes its number), or
            the message in it.
        repeated: whether it may stand more than once.
    """

    name: str
    kind: Literal["number", "bytes", "enum"] | Mapping[int, Field]
    repeated: bool = False


def read_bytes(data: bytes, message: Mapping[int, Field], what: str) -> dict[str, Any]:
    """Read a message from its bytes.

    Args:
        data: the bytes.
        message: its fields, by their numbers.
        what: what errors call it.

    Raises:
        Malformed: it is anything else.
    """
    found: dict[str, Any] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at, what)
        field = message.get(tag >> 3)
        if field is None:
            raise Malformed(
                "unknown field",
                field=what,
                found=f"field {tag >> 3}",
                expected=", ".join(f"{number} ({each.name})" for number, each in message.items()),
            )
        where = f"{what}: {field.name}"
        wanted = _VARINT if field.kind in ("number", "enum") else _DELIMITED
        if tag & 7 != wanted:
            raise Malformed("wrong wire type", field=where, found=tag & 7, expected=wanted)
        value: Any
        value, at = _varint(data, at, where)
        if wanted == _DELIMITED:
            start, at = at, at + value
            if at > len(data):
                raise Malformed(
                    "ends too early",
                    field=where,
                    found=f"{len(data) - start} bytes",
                    expected=f"{value} bytes",
                )
            value = data[start:at]
            if not isinstance(field.kind, str):
                value = read_bytes(value, field.kind, where)
        _put(found, field, value, where)
    return found


def read_text(text: bytes, message: Mapping[int, Field], what: str) -> dict[str, Any]:
    """Read a message from its text.

    Args:
        text: the text, UTF-8.
        message: its fields, by their numbers.
        what: what errors call it.

    Raises:
        Malformed: it is anything else.
    """
    return _Text(text, what).message(message, b"", what)


class _Text:
    """The tokens of a text, and where they are."""

    def __init__(self, text: bytes, what: str) -> None:
        self._text, self._what, self._at = text, what, 0
        self._advance()

    def message(self, message: Mapping[int, Field], closing: bytes, where: str) -> dict[str, Any]:
        """The fields up to `closing`, which is taken, or to the end."""
        names = {field.name.encode(): field for field in message.values()}
        found: dict[str, Any] = {}
        while not self._take_end(closing):
            if self._kind != "name" or self._token not in names:
                raise self._unexpected(where, ", ".join(sorted(map(bytes.decode, names))))
            field = names[self._token]
            inner = f"{where}: {field.name}"
            self._advance()
            colon = self._take(b":")
            if isinstance(field.kind, str):
                if not colon:
                    raise self._unexpected(inner, "a colon")
                value: Any = self._scalar(field.kind, inner)
            else:
                opening = self._token
                if not (self._take(b"{") or self._take(b"<")):
                    raise self._unexpected(inner, "{")
                value = self.message(field.kind, _CLOSING[opening], inner)
            _put(found, field, value, inner)
            _ = self._take(b",") or self._take(b";")
        return found

    def _take_end(self, closing: bytes) -> bool:
        if self._kind == "end":
            if closing:
                raise self._unexpected(self._what, closing.decode())
            return True
        return bool(closing) and self._take(closing)

    def _scalar(self, kind: str, where: str) -> int | bytes:
        if kind != "bytes":
            if self._kind != "number" and (kind, self._kind) != ("enum", "name"):
                raise self._unexpected(where, "a number")
            token, is_name = self._token, self._kind == "name"
            self._advance()
            # The name of one of an enumeration is nothing but that.
            if is_name:
                return token
            value = int(token, 16 if token[1:2] in b"xX" else 10)
            if value >> 64:
                raise Malformed("not a number of 64 bits", field=where, found=token.decode())
            return value
        parts = []
        while self._kind == "text":
            parts.append(_unescape(self._token[1:-1], where))
            self._advance()
        if not parts:
            raise self._unexpected(where, "a string")
        return b"".join(parts)

    def _take(self, mark: bytes) -> bool:
        if self._kind == "mark" and self._token == mark:
            self._advance()
            return True
        return False

    def _advance(self) -> None:
        match = _TOKEN.match(self._text, self._at)
        if match is None or match.lastgroup is None:
            raise Malformed("not the text of a message", field=self._what, found=self._place())
        self._kind, self._token = match.lastgroup, match[match.lastgroup]
        self._at = match.end()

    def _place(self) -> str:
        return f"byte {self._at}"

    def _unexpected(self, where: str, expected: str) -> Malformed:
        found = self._token[:40].decode("utf-8", "replace") or "the end"
        found = f"{found}, before {self._place()}"
        return Malformed("something else", field=where, found=found, expected=expected)


def _put(found: dict[str, Any], field: Field, value: object, where: str) -> None:
    if field.repeated:
        found.setdefault(field.name, []).append(value)
    elif field.name in found:
        raise Malformed("stands twice", field=where)
    else:
        found[field.name] = value


def _varint(data: bytes, at: int, where: str) -> tuple[int, int]:
    """A number, and where it ends."""
    value = 0
    for index in range(_MAX_VARINT):
        if at + index >= len(data):
            raise Malformed("ends too early", field=where, expected="a number")
        byte = data[at + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            if (index and not byte) or value >> 64:
                break
            return value, at + index + 1
    raise Malformed("not a number of 64 bits in its shortest form", field=where)


def _unescape(text: bytes, where: str) -> bytes:
    def one(match: re.Match[bytes]) -> bytes:
        two, octal, short, long, letter = match.groups()
        if two is not None:
            return bytes((int(two, 16),))
        try:
            if octal is not None:
                return bytes((int(octal, 8),))
            if letter is None:
                return chr(int(short or long, 16)).encode()
            return bytes((_LETTERS[letter[0]],))
        except (ValueError, OverflowError, KeyError) as error:
            raise Malformed(
                "unknown escape", field=where, found=match[0].decode("utf-8", "replace")
            ) from error

    return _ESCAPE.sub(one, text)
