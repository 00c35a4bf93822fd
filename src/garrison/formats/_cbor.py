"""CBOR (RFC 8949) in one encoding of each value, bounded, for evidence that comes in it.

Lengths and integers are in their shortest form and definite, the keys of a map are integers or
text and each there once, and nothing follows the end. So whatever parses re-encodes to the same
bytes (maps keep their order), and two readers cannot see two things. Floating-point numbers and
simple values other than false, true and null have no place in evidence.

Arrays and maps of indefinite length are read where a reader asks for it, for those who sign such
(newer Nitro Secure Modules do): what was signed must then be kept as it came.

It is read by hand: a general CBOR reader would build whatever an unauthenticated sender asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from garrison.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")

# Evidence nests less than half as deep; the stack of Python could take a hundred times more.
MAX_DEPTH = 16

# RFC 8949, section 3.1: the major types.
_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
# RFC 8949, section 3.3: the simple values.
_SIMPLES = {20: False, 21: True, 22: None}
# RFC 8949, section 3: the additional information that announces 1, 2, 4 or 8 bytes of argument.
_WIDTHS = {24: 1, 25: 2, 26: 4, 27: 8}
# The least argument that needs so many.
_LEAST = {24: 24, 25: 1 << 8, 26: 1 << 16, 27: 1 << 32}
# Section 3.2.1: what announces an indefinite length, and what ends it.
_INDEFINITE, _BREAK = 31, b"\xff"
_INDEFINITE_COUNT = -1


@dataclass(frozen=True, slots=True)
class Tagged:
    """A value with its tag."""

    tag: int
    value: Any


class Fields:
    """The members of a map, taken one by one by key; `done` refuses what nobody took."""

    __slots__ = ("_left", "_what")

    def __init__(self, value: object, what: str) -> None:
        """Take a decoded value, which errors call `what`.

        Raises:
            Malformed: it is not a map.
        """
        if type(value) is not dict:
            raise Malformed("wrong type", field=what, found=name(value), expected="a map")
        self._left: dict[int | str, Any] = dict(value)
        self._what = what

    def take(self, key: int | str, kind: type[T], label: str | None = None) -> T:
        """Take the value of `key`, which must be of `kind`; errors call it `label`.

        Raises:
            Malformed: it is absent, or of another type.
        """
        field = f"{self._what}: {label or key}"
        if key not in self._left:
            raise Malformed("missing", field=field, expected=f"key {key}")
        value = self._left.pop(key)
        # bool is a subclass of int in Python and not in CBOR.
        if type(value) is not kind:
            raise Malformed("wrong type", field=field, found=name(value), expected=kind.__name__)
        return value

    def optional(self, key: int | str, kind: type[T], label: str | None = None) -> T | None:
        """Take the value of `key`; None if it is absent.

        Raises:
            Malformed: it is of another type.
        """
        return self.take(key, kind, label) if key in self._left else None

    def nullable(self, key: int | str, kind: type[T], label: str | None = None) -> T | None:
        """Take the value of `key`; None if it is null or absent.

        Raises:
            Malformed: it is of another type.
        """
        if self._left.get(key, 0) is None:
            del self._left[key]
        return self.optional(key, kind, label)

    def ignore(self, *keys: int | str) -> None:
        """Take the values of `keys`, whatever they are, if they are there."""
        for key in keys:
            self._left.pop(key, None)

    def done(self) -> None:
        """Refuse every member that was not taken.

        Raises:
            Malformed: there is one.
        """
        for key in self._left:
            raise Malformed("unknown key", field=self._what, found=repr(key)[:80])


def name(value: object) -> str:
    """The type of a decoded value, for errors."""
    return "null" if value is None else type(value).__name__


def decode(data: bytes, what: str, limit: int, *, indefinite: bool = False) -> Any:
    """Read the one value in `data`.

    Args:
        data: the bytes.
        what: what errors call it.
        limit: how many bytes it may have.
        indefinite: whether arrays and maps may have no length, and an end instead.

    Raises:
        Malformed: it is anything else than the module says.
    """
    if len(data) > limit:
        raise Malformed(
            "too long", field=what, found=f"{len(data)} bytes", expected=f"at most {limit}"
        )
    reader = _Reader(data, what, indefinite)
    value = reader.value(0)
    if reader.offset != len(data):
        raise reader.malformed("bytes after the end", "none")
    return value


def encode(value: object) -> bytes:
    """Write `value`: an int, bytes, str, list, dict, bool, None or `Tagged`, or these nested.

    Raises:
        TypeError: it is of another type.
    """
    match value:
        case None | bool():
            simple = next(number for number, known in _SIMPLES.items() if known is value)
            return bytes((_SIMPLE << 5 | simple,))
        case int():
            return _head(_UNSIGNED, value) if value >= 0 else _head(_NEGATIVE, -1 - value)
        case bytes():
            return _head(_BYTES, len(value)) + value
        case str():
            text = value.encode()
            return _head(_TEXT, len(text)) + text
        case list() | tuple():
            return _head(_ARRAY, len(value)) + b"".join(map(encode, value))
        case dict():
            members = (encode(key) + encode(member) for key, member in value.items())
            return _head(_MAP, len(value)) + b"".join(members)
        case Tagged():
            return _head(_TAG, value.tag) + encode(value.value)
    raise TypeError(f"{name(value)} has no place in evidence")


def _head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes((major << 5 | argument,))
    for info, width in _WIDTHS.items():
        if argument < 1 << (8 * width):
            return bytes((major << 5 | info,)) + argument.to_bytes(width, "big")
    raise TypeError("an integer of more than 64 bits has no place in evidence")


class _Reader:
    def __init__(self, data: bytes, what: str, indefinite: bool) -> None:
        self.data = data
        self.offset = 0
        self.what = what
        self.indefinite = indefinite

    def malformed(self, message: str, expected: str) -> Malformed:
        found = f"{self.data[self.offset : self.offset + 8].hex() or 'the end'}"
        return Malformed(
            message,
            field=self.what,
            found=f"{found} at offset {self.offset}",
            expected=expected,
        )

    def take(self, size: int) -> bytes:
        # Compared before it is sliced: the size is the sender's word.
        if size > len(self.data) - self.offset:
            raise self.malformed("ends too early", f"{size} bytes")
        taken = self.data[self.offset : self.offset + size]
        self.offset += size
        return taken

    def head(self) -> tuple[int, int]:
        # Most of what is read is heads: no call is made for the bytes of one.
        data, start = self.data, self.offset
        if start >= len(data):
            raise self.malformed("ends too early", "1 bytes")
        initial = data[start]
        major, info = initial >> 5, initial & 31
        self.offset = start + 1
        if info < 24:
            return major, info
        if info == _INDEFINITE and self.indefinite and major in (_ARRAY, _MAP):
            return major, _INDEFINITE_COUNT
        width = _WIDTHS.get(info)
        argument = -1 if width is None else int.from_bytes(self.take(width), "big")
        if width is None or argument < _LEAST[info]:
            self.offset = start
            raise self.malformed("not CBOR in its one encoding", "a definite, shortest length")
        return major, argument

    def value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise self.malformed("nested too deeply", f"at most {MAX_DEPTH} levels")
        start = self.offset
        major, argument = self.head()
        match major:
            case 0:
                return argument
            case 1:
                return -1 - argument
            case 2:
                return self.take(argument)
            case 3:
                return self._text(argument)
            case 4:
                return [self.value(depth + 1) for _ in self._elements(argument)]
            case 5:
                return self._map(argument, depth + 1)
            case 6:
                return Tagged(argument, self.value(depth + 1))
        if argument not in _SIMPLES or self.offset != start + 1:
            self.offset = start
            raise self.malformed("a value that evidence has not", "false, true or null")
        return _SIMPLES[argument]

    def _text(self, size: int) -> str:
        start = self.offset
        try:
            return self.take(size).decode()
        except UnicodeDecodeError as error:
            self.offset = start
            raise self.malformed("not UTF-8", "text") from error

    def _elements(self, count: int) -> Iterable[object]:
        """One turn for each element; of indefinite length until the end, which is taken."""
        if count == _INDEFINITE_COUNT:
            return self._until_the_end()
        # Each element has a byte at least.
        if count > len(self.data) - self.offset:
            raise self.malformed("ends too early", f"{count} elements")
        return range(count)

    def _until_the_end(self) -> Iterator[None]:
        while self.data[self.offset : self.offset + 1] != _BREAK:
            yield
        self.offset += 1

    def _map(self, count: int, depth: int) -> dict[int | str, Any]:
        members: dict[int | str, Any] = {}
        for _ in self._elements(count):
            start = self.offset
            key = self.value(depth)
            if type(key) not in (int, str) or key in members:
                self.offset = start
                raise self.malformed("not a key", "an integer or text, each once")
            members[key] = self.value(depth)
        return members
