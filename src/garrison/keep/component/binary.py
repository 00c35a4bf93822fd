"""The binary form of a component: bytes to definitions, which name each other by index.

Source: the component model repository, design/mvp/Binary.md (binary version 0x0d). Rules: one
pass with bounded reads; anything that cannot be read raises `Malformed` and nothing else; what a
name or an index means is for `link`, which checks it.

Refused with a clear error: start functions, values, asynchronous functions, streams and futures,
strings in another encoding than UTF-8.
"""

from __future__ import annotations

from garrison.errors import Malformed
from garrison.keep.component.definitions import (
    Alias,
    Bundle,
    Component,
    CoreAlias,
    CoreBundle,
    CoreInstantiation,
    CoreModule,
    CoreTypes,
    Declaration,
    Export,
    External,
    FunctionDefinition,
    Import,
    Instantiation,
    Lift,
    Lower,
    Nested,
    Options,
    OuterAlias,
    ResourceDefinition,
    ResourceFunction,
    ScopeDefinition,
    TypeSection,
    ValueDefinition,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from garrison.keep.component.definitions import CoreSort, Definition, Sort, ValueRef

    T = TypeVar("T")

# Binary.md, `preamble`: version 0x0d and layer 1.
_PREAMBLE = b"\0asm\x0d\0\x01\0"

# Components in components, types in types: what toolchains make is at most four deep.
MAX_DEPTH = 16
# Names of WIT and of core modules; a longer one is no name.
MAX_NAME = 1024
# One definition costs us some hundred bytes; toolchains make some thousands.
MAX_DEFINITIONS = 1 << 18

# Binary.md, `core:sort` and `sort`.
_CORE_SORTS: dict[int, CoreSort] = {0: "func", 1: "table", 2: "memory", 3: "global"}
_SORTS: dict[int, Sort] = {1: "func", 3: "type", 4: "component", 5: "instance"}
_CORE_MODULE = 0x11
_CORE_INSTANCE = 0x12

# Binary.md, `primvaltype`.
PRIMITIVES = {
    0x7F: "bool", 0x7E: "s8", 0x7D: "u8", 0x7C: "s16", 0x7B: "u16", 0x7A: "s32", 0x79: "u32",
    0x78: "s64", 0x77: "u64", 0x76: "f32", 0x75: "f64", 0x74: "char", 0x73: "string",
}  # fmt: skip


def parse(wasm: bytes) -> Component:
    """Read a component.

    Raises:
        Malformed: it is none, or one of a kind that is not supported.
    """
    budget = [MAX_DEFINITIONS]
    return _component(_Reader(wasm, 0, len(wasm), budget), 0)


def unsupported(what: str, hint: str | None = None) -> Malformed:
    """The error for a valid component that no keep runs."""
    return Malformed(
        "this kind of component is not supported", field="component", found=what, hint=hint
    )


class _Reader:
    """Reads a part of the binary from its start to its end."""

    __slots__ = ("_budget", "_data", "_end", "at")

    def __init__(self, data: bytes, start: int, end: int, budget: list[int]) -> None:
        self._data = data
        self._end = end
        self._budget = budget
        self.at = start

    def malformed(self, what: str, found: object = None, expected: object = None) -> Malformed:
        return Malformed(
            f"{what}, at offset {self.at:#x}", field="component", found=found, expected=expected
        )

    def byte(self) -> int:
        if self.at >= self._end:
            raise self.malformed("ends too early")
        self.at += 1
        return self._data[self.at - 1]

    def number(self) -> int:
        """An unsigned LEB128 of 32 bits."""
        value = 0
        for shift in range(0, 35, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 32:
                    break
                return value
        raise self.malformed("a number has more than 32 bits")

    def take(self, size: int) -> bytes:
        if size > self._end - self.at:
            raise self.malformed("ends too early", f"{self._end - self.at} bytes", size)
        self.at += size
        return self._data[self.at - size : self.at]

    def name(self) -> str:
        size = self.number()
        if size > MAX_NAME:
            raise self.malformed("a name is too long", size, f"at most {MAX_NAME}")
        try:
            return self.take(size).decode()
        except UnicodeDecodeError:
            raise self.malformed("a name is not UTF-8") from None

    def public_name(self) -> str:
        """Binary.md, `importname'` and `exportname'`."""
        if (form := self.byte()) > 1:
            raise self.malformed("an unknown form of name", form, "0 or 1")
        return self.name()

    def vector(self, item: Callable[[], T]) -> tuple[T, ...]:
        count = self.number()
        # An item has a byte at least.
        if count > self._end - self.at:
            raise self.malformed("a list is longer than what holds it", count)
        self._budget[0] -= count
        if self._budget[0] < 0:
            raise self.malformed("too many definitions", expected=f"at most {MAX_DEFINITIONS}")
        return tuple(item() for _ in range(count))

    def part(self, size: int) -> _Reader:
        if size > self._end - self.at:
            raise self.malformed("ends too early", f"{self._end - self.at} bytes", size)
        self.at += size
        return _Reader(self._data, self.at - size, self.at, self._budget)

    def rest(self) -> bytes:
        return self.take(self._end - self.at)

    def ended(self) -> bool:
        return self.at >= self._end

    def end(self) -> None:
        if not self.ended():
            raise self.malformed("bytes after the end", f"{self._end - self.at} bytes", "none")


def _component(reader: _Reader, depth: int) -> Component:
    if depth > MAX_DEPTH:
        raise reader.malformed("components are nested too deep", expected=f"at most {MAX_DEPTH}")
    found = reader.take(len(_PREAMBLE))
    if found != _PREAMBLE:
        raise reader.malformed("not a component", found.hex(), _PREAMBLE.hex())
    definitions: list[Definition] = []
    while not reader.ended():
        number = reader.byte()
        section = reader.part(reader.number())
        if number == 0:
            continue  # custom sections say nothing that counts
        definitions += _section(section, number, depth)
    return Component(tuple(definitions))


def _section(reader: _Reader, number: int, depth: int) -> tuple[Definition, ...]:
    """Binary.md, `section`."""
    if number == 1:
        return (CoreModule(reader.rest()),)
    if number == 3:
        count = reader.number()
        if count > len(reader.rest()):
            raise reader.malformed("a list is longer than what holds it", count)
        return (CoreTypes(count),)
    if number == 4:
        return (Nested(_component(reader, depth + 1)),)
    if number in (9, 12):
        raise unsupported({9: "a start function", 12: "a value"}[number])
    readers: dict[int, Callable[[], Definition]] = {
        2: lambda: _core_instance(reader),
        5: lambda: _instance(reader),
        6: lambda: _alias(reader),
        7: lambda: _type(reader, depth),
        8: lambda: _canon(reader),
        10: lambda: Import(reader.public_name(), _external(reader)),
        11: lambda: _export(reader),
    }
    if number not in readers:
        raise reader.malformed("an unknown section", number, "0 to 12")
    definitions = reader.vector(readers[number])
    reader.end()
    return definitions


def _core_instance(reader: _Reader) -> CoreInstantiation | CoreBundle:
    form = reader.byte()
    if form == 0:
        return CoreInstantiation(reader.number(), reader.vector(lambda: _core_argument(reader)))
    if form == 1:
        return CoreBundle(
            reader.vector(lambda: (reader.name(), _core_sort(reader), reader.number()))
        )
    raise reader.malformed("an unknown form of core instance", form)


def _core_argument(reader: _Reader) -> tuple[str, int]:
    name = reader.name()
    if (sort := reader.byte()) != _CORE_INSTANCE:
        raise reader.malformed("not an instance", sort, _CORE_INSTANCE)
    return name, reader.number()


def _core_sort(reader: _Reader) -> CoreSort:
    sort = reader.byte()
    if sort not in _CORE_SORTS:
        raise reader.malformed("an unknown sort of core definition", sort)
    return _CORE_SORTS[sort]


def _sort(reader: _Reader) -> Sort:
    """Binary.md, `sort`, where it is not one of the core ones but a module."""
    sort = reader.byte()
    if sort == 0:
        if (core := reader.byte()) != _CORE_MODULE:
            raise reader.malformed("an unknown sort of core definition", core, _CORE_MODULE)
        return "core module"
    if sort == 2:
        raise unsupported("a value")
    if sort not in _SORTS:
        raise reader.malformed("an unknown sort", sort)
    return _SORTS[sort]


def _instance(reader: _Reader) -> Instantiation | Bundle:
    form = reader.byte()
    if form == 0:
        return Instantiation(
            reader.number(),
            reader.vector(lambda: (reader.name(), _sort(reader), reader.number())),
        )
    if form == 1:
        return Bundle(reader.vector(lambda: (reader.public_name(), _sort(reader), reader.number())))
    raise reader.malformed("an unknown form of instance", form)


def _alias(reader: _Reader) -> CoreAlias | Alias | OuterAlias:
    start = reader.at
    sort = reader.byte()
    core = reader.byte() if sort == 0 else -1
    target = reader.byte()
    if target == 1:
        if core not in _CORE_SORTS:
            raise reader.malformed("an unknown sort of core definition", core)
        return CoreAlias(_CORE_SORTS[core], reader.number(), reader.name())
    reader.at = start
    plain = _sort(reader)
    reader.byte()
    if target == 0:
        return Alias(plain, reader.number(), reader.name())
    if target == 2:
        return OuterAlias(plain, reader.number(), reader.number())
    raise reader.malformed("an unknown form of alias", target)


def _export(reader: _Reader) -> Export:
    name, sort, index = reader.public_name(), _sort(reader), reader.number()
    return Export(name, sort, index, _optional(reader, lambda: _external(reader)))


def _external(reader: _Reader) -> External:
    """Binary.md, `externdesc`."""
    sort = _sort(reader)
    if sort == "type":
        if (bound := reader.byte()) > 1:
            raise reader.malformed("an unknown bound of a type", bound)
        return External(sort, None if bound else reader.number())
    return External(sort, reader.number())


def _optional(reader: _Reader, item: Callable[[], T]) -> T | None:
    if (present := reader.byte()) > 1:
        raise reader.malformed("neither 0 nor 1 before something optional", present)
    return item() if present else None


def _type(reader: _Reader, depth: int) -> TypeSection:
    """Binary.md, `deftype`."""
    if depth > MAX_DEPTH:
        raise reader.malformed("types are nested too deep", expected=f"at most {MAX_DEPTH}")
    form = reader.byte()
    if form == 0x40:
        return TypeSection(_function(reader))
    if form in (0x41, 0x42):
        return TypeSection(
            ScopeDefinition(reader.vector(lambda: _declaration(reader, depth + 1, form == 0x41)))
        )
    if form == 0x3F:
        if (rep := reader.byte()) != 0x7F:
            raise reader.malformed("a resource that is no i32", rep, 0x7F)
        return TypeSection(ResourceDefinition(_optional(reader, reader.number)))
    if form in (0x3E, 0x43):
        raise unsupported("asynchronous functions", _ASYNC_HINT)
    return TypeSection(_value_definition(reader, form))


_ASYNC_HINT = "build for WASI 0.2"


def _function(reader: _Reader) -> FunctionDefinition:
    parameters = reader.vector(lambda: (reader.name(), _value(reader)))
    form = reader.byte()
    if form == 0:
        result: ValueRef | None = _value(reader)
    elif form == 1 and not reader.byte():
        result = None
    else:
        raise reader.malformed("an unknown form of result")
    return FunctionDefinition(
        tuple(name for name, _ in parameters), tuple(value for _, value in parameters), result
    )


def _value(reader: _Reader) -> ValueRef:
    """Binary.md, `valtype`: an index, or a primitive as a negative number of one byte."""
    start = reader.at
    byte = reader.byte()
    if 0x40 <= byte < 0x80:
        return _primitive(reader, byte)
    reader.at = start
    return reader.number()


def _primitive(reader: _Reader, byte: int) -> str:
    if byte not in PRIMITIVES:
        if byte == 0x64:
            raise unsupported("an error context", _ASYNC_HINT)
        raise reader.malformed("an unknown type", f"{byte:#x}")
    return PRIMITIVES[byte]


def _value_definition(reader: _Reader, form: int) -> ValueDefinition:
    """Binary.md, `defvaltype`."""
    if form == 0x72:
        fields = reader.vector(lambda: (reader.name(), _value(reader)))
        return _checked(reader, "record", tuple(n for n, _ in fields), tuple(t for _, t in fields))
    if form == 0x71:
        cases = reader.vector(lambda: _case(reader))
        return _checked(reader, "variant", tuple(n for n, _ in cases), tuple(t for _, t in cases))
    if form in (0x6E, 0x6D):
        kind = "flags" if form == 0x6E else "enum"
        return _checked(reader, kind, reader.vector(reader.name), ())
    if form == 0x6F:
        parts = reader.vector(lambda: _value(reader))
        if not parts:
            raise reader.malformed("a tuple of nothing")
        return ValueDefinition("tuple", parts=parts)
    if form in (0x70, 0x6B):
        return ValueDefinition("list" if form == 0x70 else "option", parts=(_value(reader),))
    if form == 0x6A:
        ok, error = (_optional(reader, lambda: _value(reader)) for _ in range(2))
        return ValueDefinition("result", parts=(ok, error))
    if form in (0x69, 0x68):
        return ValueDefinition("own" if form == 0x69 else "borrow", parts=(reader.number(),))
    if form in (0x66, 0x65):
        raise unsupported("a stream or future", _ASYNC_HINT)
    if form in (0x67, 0x63):
        raise unsupported("a map or a list of fixed length")
    return ValueDefinition("alias", parts=(_primitive(reader, form),))


def _checked(
    reader: _Reader, kind: str, labels: tuple[str, ...], parts: tuple[ValueRef | None, ...]
) -> ValueDefinition:
    # Explainer.md, "Type Definitions": none may be empty, and flags have 32 at most.
    if not labels or len(set(labels)) != len(labels) or (kind == "flags" and len(labels) > 32):
        raise reader.malformed(f"the labels of a {kind} are none, too many, or twice the same")
    return ValueDefinition(kind, labels, parts)


def _case(reader: _Reader) -> tuple[str, ValueRef | None]:
    name = reader.name()
    value = _optional(reader, lambda: _value(reader))
    if (refines := reader.byte()) != 0:
        raise reader.malformed("a case refines another", refines, 0)
    return name, value


def _declaration(reader: _Reader, depth: int, component: bool) -> Definition:
    form = reader.byte()
    if form == 1:
        return _type(reader, depth)
    if form == 2:
        return _alias(reader)
    if form == 3 and component:
        return Import(reader.public_name(), _external(reader))
    if form == 4:
        return Declaration(reader.public_name(), _external(reader))
    if form == 0:
        raise unsupported("a core type inside a type")
    raise reader.malformed("an unknown form of declaration", form)


def _canon(reader: _Reader) -> Lift | Lower | ResourceFunction:
    """Binary.md, `canon`."""
    form = reader.byte()
    if form in (0, 1):
        if (second := reader.byte()) != 0:
            raise reader.malformed("an unknown canonical function", f"{form} {second}")
        function = reader.number()
        options = _options(reader)
        return Lower(function, options) if form else Lift(function, options, reader.number())
    if form == 2:
        return ResourceFunction("new", reader.number())
    if form == 3:
        return ResourceFunction("drop", reader.number())
    if form == 4:
        return ResourceFunction("rep", reader.number())
    raise unsupported(f"the canonical function {form:#x}: asynchronous, or of threads", _ASYNC_HINT)


def _options(reader: _Reader) -> Options:
    """Binary.md, `opts`."""
    given = dict.fromkeys(("memory", "realloc", "post_return"), -1)
    names = {3: "memory", 4: "realloc", 5: "post_return"}

    def option() -> None:
        form = reader.byte()
        if form == 0:
            return  # UTF-8, which is the default too
        if form in (1, 2):
            raise unsupported("strings that are not UTF-8", "build with string-encoding=utf8")
        if form in names:
            if given[names[form]] >= 0:
                raise reader.malformed(f"{names[form]} is given twice")
            given[names[form]] = reader.number()
            return
        if form in (6, 7):
            raise unsupported("asynchronous functions", _ASYNC_HINT)
        raise unsupported(f"the canonical option {form:#x}")

    reader.vector(option)
    return Options(**{name: index for name, index in given.items() if index >= 0})
