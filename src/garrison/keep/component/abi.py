"""The canonical ABI: values of each type, to and from core values and linear memory.

Source: the component model repository, design/mvp/CanonicalABI.md; the words lift (out of the
component) and lower (into it), load and store, flat, are from there. Rules: whatever a component
says is checked where it is used - bounds, alignment, UTF-8, ranges of characters, cases, handles
and their kinds, what its allocator returns - and what is wrong is a `Trap`; how much of our
memory one call's parameters may take is bounded. How values look in Python is said in `types`.

Views of linear memory (lists of `u8`, as parameters) are true during the call only.
"""

# ruff: noqa: ARG002  (all kinds of value cross by the same signatures)

from __future__ import annotations

import math
from _struct import Struct, pack_into  # all that `struct` is, and one file less to load

from garrison.keep.component import types as t
from garrison.keep.engine.failures import Trap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from garrison.keep.component.boundary import Boundary

# What a value of a list costs us, about.
_ELEMENT_COST = 64

# Core types, by the letter that `struct` has for each: i32, i64, f32, f64.
_FLAT = {"I": Struct("<I"), "Q": Struct("<Q"), "f": Struct("<f"), "d": Struct("<d")}


class Codec:
    """How values of one type cross.

    Attributes:
        size: how many bytes they have in memory.
        align: what their address is a multiple of.
        flat: their core types.
    """

    size: int
    align: int
    flat: str

    def load(self, cx: Boundary, view: memoryview, at: int) -> Any:
        """Read a value from memory."""
        raise NotImplementedError

    def store(self, cx: Boundary, value: Any, view: memoryview, at: int) -> None:
        """Write a value to memory."""
        raise NotImplementedError

    def lift(self, cx: Boundary, flat: Sequence[Any], at: int) -> Any:
        """Make a value of core values."""
        raise NotImplementedError

    def lower(self, cx: Boundary, value: Any) -> list[Any]:
        """Make core values of a value."""
        raise NotImplementedError


class _Number(Codec):
    """Integers: a core value has 32 or 64 bits, of which the lower ones count."""

    def __init__(self, letter: str) -> None:
        self.letter = letter
        self._struct = Struct("<" + letter)
        self.size = self.align = self._struct.size
        self.flat = "Q" if self.size == 8 else "I"
        self._bits = 8 * self.size
        self._mask = (1 << self._bits) - 1
        self._sign = 1 << (self._bits - 1) if letter.islower() else 0
        self._flat_mask = (1 << (64 if self.size == 8 else 32)) - 1

    def load(self, cx: Boundary, view: memoryview, at: int) -> Any:
        return self._struct.unpack_from(view, at)[0]

    def store(self, cx: Boundary, value: Any, view: memoryview, at: int) -> None:
        self._struct.pack_into(view, at, value)

    def lift(self, cx: Boundary, flat: Sequence[Any], at: int) -> Any:
        value = flat[at] & self._mask
        return value - (1 << self._bits) if value & self._sign else value

    def lower(self, cx: Boundary, value: Any) -> list[Any]:
        return [value & self._flat_mask]


class _Float(Codec):
    """Floating point: every NaN is the same."""

    def __init__(self, letter: str) -> None:
        self._struct = _FLAT[letter]
        self.size = self.align = self._struct.size
        self.flat = letter

    def load(self, cx: Boundary, view: memoryview, at: int) -> Any:
        return self.lift(cx, self._struct.unpack_from(view, at), 0)

    def store(self, cx: Boundary, value: Any, view: memoryview, at: int) -> None:
        self._struct.pack_into(view, at, self.lower(cx, value)[0])

    def lift(self, cx: Boundary, flat: Sequence[Any], at: int) -> Any:
        return math.nan if math.isnan(flat[at]) else flat[at]

    def lower(self, cx: Boundary, value: Any) -> list[Any]:
        return [math.nan if math.isnan(value) else value]


class _Bool(Codec):
    size = align = 1
    flat = "I"

    def load(self, cx: Boundary, view: memoryview, at: int) -> Any:
        return view[at] != 0

    def store(self, cx: Boundary, value: Any, view: memoryview, at: int) -> None:
        view[at] = 1 if value else 0

    def lift(self, cx: Boundary, flat: Sequence[Any], at: int) -> Any:
        return flat[at] != 0

    def lower(self, cx: Boundary, value: Any) -> list[Any]:
        return [1 if value else 0]


class _Char(Codec):
    size = align = 4
    flat = "I"

    def load(self, cx: Boundary, view: memoryview, at: int) -> Any:
        return self.lift(cx, _FLAT["I"].unpack_from(view, at), 0)

    def store(self, cx: Boundary, value: Any, view: memoryview, at: int) -> None:
        _FLAT["I"].pack_into(view, at, ord(value))

    def lift(self, cx: Boundary, flat: Sequence[Any], at: int) -> Any:
        code = flat[at]
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            raise Trap(f"the guest failed: {code:#x} is no character")
        return chr(code)

    def lower(self, cx: Boundary, value: Any) -> list[Any]:
        return [ord(value)]


class _Range(Codec):
    """What is an address and a length."""

    size = 8
    align = 4
    flat = "II"
    _pair = Struct("<II")

    def load(self, cx: Boundary, view: memoryview, at: int) -> Any:
        return self.read(cx, *self._pair.unpack_from(view, at), inner=True)

    def store(self, cx: Boundary, value: Any, view: memoryview, at: int) -> None:
        self._pair.pack_into(view, at, *self.write(cx, value))

    def lift(self, cx: Boundary, flat: Sequence[Any], at: int) -> Any:
        return self.read(cx, flat[at], flat[at + 1], inner=False)

    def lower(self, cx: Boundary, value: Any) -> list[Any]:
        return list(self.write(cx, value))

    def read(self, cx: Boundary, address: int, count: int, *, inner: bool) -> Any:
        raise NotImplementedError

    def write(self, cx: Boundary, value: Any) -> tuple[int, int]:
        raise NotImplementedError


class _Bytes(_Range):
    def read(self, cx: Boundary, address: int, count: int, *, inner: bool) -> Any:
        if inner:
            # Many of a list could all be of the same bytes.
            cx.spend(count)
        return cx.at(address, count, 1)

    def write(self, cx: Boundary, value: Any) -> tuple[int, int]:
        size = len(value)
        address, view = cx.room(size, 1)
        view[:] = value
        return address, size


class _String(_Bytes):
    def read(self, cx: Boundary, address: int, count: int, *, inner: bool) -> Any:
        cx.spend(count)
        try:
            return str(cx.at(address, count, 1), "utf-8")
        except UnicodeDecodeError as error:
            raise Trap(f"the guest failed: a string is not UTF-8, at {error.start}") from None

    def write(self, cx: Boundary, value: Any) -> tuple[int, int]:
        return super().write(cx, value.encode())


class _List(_Range):
    def __init__(self, part: Codec) -> None:
        self._part = part

    def read(self, cx: Boundary, address: int, count: int, *, inner: bool) -> Any:
        part = self._part
        cx.spend(count * _ELEMENT_COST)
        view = cx.at(address, count * part.size, part.align)
        return [part.load(cx, view, at) for at in range(0, count * part.size, part.size)]

    def write(self, cx: Boundary, value: Any) -> tuple[int, int]:
        part = self._part
        address, view = cx.room(len(value) * part.size, part.align)
        if isinstance(part, _Number):
            pack_into(f"<{len(value)}{part.letter}", view, 0, *value)
            return address, len(value)
        for index, item in enumerate(value):
            part.store(cx, item, view, index * part.size)
        return address, len(value)


class _Borrows(_List):
    """What is waited for, time and again: numbers that are read at once."""

    def __init__(self, resource: t.Resource) -> None:
        super().__init__(_Borrow(resource))
        self._resource = resource

    def read(self, cx: Boundary, address: int, count: int, *, inner: bool) -> Any:
        if cx.lent is not None:
            return super().read(cx, address, count, inner=inner)
        cx.spend(count * _ELEMENT_COST)
        view = cx.at(address, count * 4, 4)
        return cx.handles.things(view, self._resource)


class _Fields(Codec):
    """Records and tuples: one after the other, each at a multiple of its alignment."""

    def __init__(self, parts: Iterable[Codec]) -> None:
        self._parts: list[tuple[Codec, int, int]] = []
        size = flat_size = 0
        self.align = 1
        self.flat = ""
        for part in parts:
            size = _aligned(size, part.align)
            self._parts.append((part, size, flat_size))
            size += part.size
            flat_size += len(part.flat)
            self.flat += part.flat
            self.align = max(self.align, part.align)
        self.size = _aligned(size, self.align)

    def load(self, cx: Boundary, view: memoryview, at: int) -> Any:
        return tuple([part.load(cx, view, at + place) for part, place, _ in self._parts])

    def store(self, cx: Boundary, value: Any, view: memoryview, at: int) -> None:
        for (part, place, _), field in zip(self._parts, value, strict=True):
            part.store(cx, field, view, at + place)

    def lift(self, cx: Boundary, flat: Sequence[Any], at: int) -> Any:
        return tuple([part.lift(cx, flat, at + place) for part, _, place in self._parts])

    def lower(self, cx: Boundary, value: Any) -> list[Any]:
        flat = []
        for (part, _, _), field in zip(self._parts, value, strict=True):
            flat += part.lower(cx, field)
        return flat


class _Cases(Codec):
    """Variants, and what is one by another name: a discriminant, and what the case carries."""

    def __init__(self, cases: Sequence[tuple[str, Codec | None]]) -> None:
        self._cases = cases
        self._numbers = {label: index for index, (label, _) in enumerate(cases)}
        width = 1 if len(cases) <= 1 << 8 else 2 if len(cases) <= 1 << 16 else 4
        self._discriminant = Struct({1: "<B", 2: "<H", 4: "<I"}[width])
        parts = [part for _, part in cases if part is not None]
        self.align = max([width, *(part.align for part in parts)])
        self._place = _aligned(width, max((part.align for part in parts), default=1))
        self.size = _aligned(self._place + max((p.size for p in parts), default=0), self.align)
        joined: list[str] = []
        for part in parts:
            for index, letter in enumerate(part.flat):
                if index == len(joined):
                    joined.append(letter)
                elif joined[index] != letter:
                    joined[index] = "I" if {letter, joined[index]} == {"I", "f"} else "Q"
        self.flat = "I" + "".join(joined)

    def load(self, cx: Boundary, view: memoryview, at: int) -> Any:
        (number,) = self._discriminant.unpack_from(view, at)
        label, part = self._case(number)
        return self.made(label, None if part is None else part.load(cx, view, at + self._place))

    def store(self, cx: Boundary, value: Any, view: memoryview, at: int) -> None:
        label, carried = self.taken(value)
        number = self._numbers[label]
        self._discriminant.pack_into(view, at, number)
        part = self._cases[number][1]
        if part is not None:
            part.store(cx, carried, view, at + self._place)

    def lift(self, cx: Boundary, flat: Sequence[Any], at: int) -> Any:
        label, part = self._case(flat[at])
        if part is None:
            return self.made(label, None)
        carried = [
            _lifted(flat[at + 1 + index], self.flat[1 + index], wanted)
            for index, wanted in enumerate(part.flat)
        ]
        return self.made(label, part.lift(cx, carried, 0))

    def lower(self, cx: Boundary, value: Any) -> list[Any]:
        label, carried = self.taken(value)
        number = self._numbers[label]
        part = self._cases[number][1]
        flat: list[Any] = [number]
        if part is not None:
            flat += [
                _lowered(core, have, wanted)
                for core, have, wanted in zip(
                    part.lower(cx, carried), part.flat, self.flat[1:], strict=False
                )
            ]
        flat += [0 if letter in "IQ" else 0.0 for letter in self.flat[len(flat) :]]
        return flat

    def _case(self, number: int) -> tuple[str, Codec | None]:
        if number >= len(self._cases):
            raise Trap(f"the guest failed: case {number} of {len(self._cases)}")
        return self._cases[number]

    def made(self, label: str, carried: Any) -> Any:
        return label, carried

    def taken(self, value: Any) -> tuple[str, Any]:
        label, carried = value
        return label, carried


class _Enum(_Cases):
    def made(self, label: str, carried: Any) -> Any:
        return label

    def taken(self, value: Any) -> tuple[str, Any]:
        return value, None


class _Option(_Cases):
    def made(self, label: str, carried: Any) -> Any:
        return carried

    def taken(self, value: Any) -> tuple[str, Any]:
        return ("none", None) if value is None else ("some", value)


class _Flags(Codec):
    flat = "I"

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = labels
        self.size = self.align = 1 if len(labels) <= 8 else 2 if len(labels) <= 16 else 4
        self._struct = Struct({1: "<B", 2: "<H", 4: "<I"}[self.size])

    def load(self, cx: Boundary, view: memoryview, at: int) -> Any:
        return self.lift(cx, self._struct.unpack_from(view, at), 0)

    def store(self, cx: Boundary, value: Any, view: memoryview, at: int) -> None:
        self._struct.pack_into(view, at, self.lower(cx, value)[0])

    def lift(self, cx: Boundary, flat: Sequence[Any], at: int) -> Any:
        # Bits that stand for no label do not count.
        return frozenset(label for bit, label in enumerate(self._labels) if flat[at] >> bit & 1)

    def lower(self, cx: Boundary, value: Any) -> list[Any]:
        return [sum(1 << bit for bit, label in enumerate(self._labels) if label in value)]


class _Handle(Codec):
    size = align = 4
    flat = "I"

    def __init__(self, resource: t.Resource) -> None:
        self._resource = resource

    def load(self, cx: Boundary, view: memoryview, at: int) -> Any:
        return self.lift(cx, _FLAT["I"].unpack_from(view, at), 0)

    def store(self, cx: Boundary, value: Any, view: memoryview, at: int) -> None:
        _FLAT["I"].pack_into(view, at, cx.handles.add(self._resource, value))

    def lift(self, cx: Boundary, flat: Sequence[Any], at: int) -> Any:
        return cx.handles.take(flat[at], self._resource)

    def lower(self, cx: Boundary, value: Any) -> list[Any]:
        return [cx.handles.add(self._resource, value)]


class _Borrow(_Handle):
    def lift(self, cx: Boundary, flat: Sequence[Any], at: int) -> Any:
        entry = cx.handles.get(flat[at], self._resource)
        if cx.lent is not None:
            entry.lent += 1
            cx.lent.append(entry)
        return entry.thing

    def store(self, cx: Boundary, value: Any, view: memoryview, at: int) -> None:
        raise NotImplementedError("no world that a keep has lends anything to a component")

    def lower(self, cx: Boundary, value: Any) -> list[Any]:
        raise NotImplementedError("no world that a keep has lends anything to a component")


def _aligned(place: int, align: int) -> int:
    return (place + align - 1) // align * align


def _lifted(value: Any, have: str, wanted: str) -> Any:
    """CanonicalABI.md, `CoerceValueIter`: a core value of a type that cases share, as it was."""
    if have == wanted:
        return value
    if wanted == "d":
        return _FLAT["d"].unpack(_FLAT["Q"].pack(value))[0]
    value &= 0xFFFFFFFF
    return _FLAT["f"].unpack(_FLAT["I"].pack(value))[0] if wanted == "f" else value


def _lowered(value: Any, have: str, wanted: str) -> Any:
    """The other direction."""
    if have == wanted:
        return value
    if have == "d":
        return _FLAT["Q"].unpack(_FLAT["d"].pack(value))[0]
    return _FLAT["I"].unpack(_FLAT["f"].pack(value))[0] if have == "f" else value


_PRIMITIVES: dict[str, Codec] = {
    "bool": _Bool(), "char": _Char(), "string": _String(), "f32": _Float("f"), "f64": _Float("d"),
    "u8": _Number("B"), "u16": _Number("H"), "u32": _Number("I"), "u64": _Number("Q"),
    "s8": _Number("b"), "s16": _Number("h"), "s32": _Number("i"), "s64": _Number("q"),
}  # fmt: skip


_known: dict[t.Type, Codec] = {}


def codec(kind: t.Type) -> Codec:
    """How values of a type cross. The type is one of ours: it is kept."""
    found = _known.get(kind)
    if found is None:
        found = _known[kind] = _codec(kind)
    return found


def _codec(kind: t.Type) -> Codec:
    match kind:
        case t.Primitive(name):
            return _PRIMITIVES[name]
        case t.Record(fields):
            return _Fields([codec(part) for _, part in fields])
        case t.Tuple(parts):
            return _Fields([codec(part) for part in parts])
        case t.Listed(part):
            if isinstance(part, t.Borrow):
                return _Borrows(part.resource)
            return _Bytes() if part == t.Primitive("u8") else _List(codec(part))
        case t.Flags(labels):
            return _Flags(labels)
        case t.Enum(labels):
            return _Enum([(label, None) for label in labels])
        case t.Option(part):
            if isinstance(part, t.Option):
                raise NotImplementedError("an option of an option has no value of its own")
            return _Option([("none", None), ("some", codec(part))])
        case t.Result(ok, err):
            return _Cases([("ok", _optional(ok)), ("err", _optional(err))])
        case t.Variant(cases):
            return _Cases([(label, _optional(part)) for label, part in cases])
        case t.Own(resource):
            return _Handle(resource)
        case t.Borrow(resource):
            return _Borrow(resource)


def _optional(kind: t.Type | None) -> Codec | None:
    return None if kind is None else codec(kind)


def fields(kinds: Iterable[t.Type]) -> Codec:
    """How values cross that stand one after the other: the parameters of a function."""
    return _Fields([codec(kind) for kind in kinds])
