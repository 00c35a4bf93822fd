"""Reads our own tables of interfaces, which are written in WIT.

Source: the component model repository, design/mvp/WIT.md. This is as much of it as WASI 0.2
takes: no nested packages, no feature gates, no comments. What it reads is ours, so it trusts it:
a mistake in a table is a `ValueError`.
"""

from __future__ import annotations

from garrison.keep.component.types import (
    Borrow,
    Enum,
    Flags,
    Function,
    Interface,
    Listed,
    Option,
    Own,
    Primitive,
    Record,
    Resource,
    Result,
    Tuple,
    Type,
    Variant,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# What stands between names; `->` is told from `>` by being looked for first.
_MARKS = ("{", "}", "(", ")", "<", ">", ",", ";", ":", "=", "/", ".")
_ARROW = "-\0"
_PRIMITIVES = frozenset(
    ("bool", "char", "f32", "f64", "s16", "s32", "s64", "s8", "string", "u16", "u32", "u64", "u8")
)


def read_package(text: str, find: Callable[[str], Interface]) -> dict[str, Interface]:
    """Read the interfaces of a package.

    Args:
        text: `package a:b;` and `interface` items.
        find: gives the interface of another package by its name, for `use`.

    Returns:
        The interfaces by name, such as `wasi:io/streams`.
    """
    return _Reader(text, find).package()


class _Reader:
    def __init__(self, text: str, find: Callable[[str], Interface]) -> None:
        text = text.replace("->", _ARROW)
        for mark in _MARKS:
            text = text.replace(mark, f" {mark} ")
        self._tokens = text.replace(_ARROW, " -> ").split()[::-1]
        self._find = find
        self._package = ""
        self._found: dict[str, Interface] = {}

    def _next(self) -> str:
        return self._tokens.pop().removeprefix("%")

    def _skip(self, token: str) -> bool:
        if self._tokens[-1] != token:
            return False
        self._tokens.pop()
        return True

    def _expect(self, *tokens: str) -> None:
        for token in tokens:
            if (found := self._next()) != token:
                raise ValueError(f"found {found!r}, expected {token!r}")

    def package(self) -> dict[str, Interface]:
        self._expect("package")
        self._package = self._name_of_package()
        self._expect(";")
        while self._tokens:
            self._expect("interface")
            interface = Interface(f"{self._package}/{self._next()}", {}, {})
            self._expect("{")
            while not self._skip("}"):
                self._item(interface)
            self._found[interface.name] = interface
        return self._found

    def _name_of_package(self) -> str:
        first = self._next()
        self._expect(":")
        return f"{first}:{self._next()}"

    def _item(self, interface: Interface) -> None:
        word = self._next()
        if word == "use":
            self._use(interface)
        elif word == "resource":
            self._resource(interface)
        elif word == "type":
            name = self._next()
            self._expect("=")
            # Another name of a resource is no handle to it.
            other = interface.types.get(self._tokens[-1])
            if isinstance(other, Resource):
                self._tokens.pop()
            interface.types[name] = other if isinstance(other, Resource) else self._type(interface)
            self._expect(";")
        elif word in ("record", "variant", "enum", "flags"):
            name = self._next()
            interface.types[name] = self._composed(interface, word)
        else:
            self._expect(":", "func")
            interface.functions[word] = self._function(interface, ())
            self._expect(";")

    def _use(self, interface: Interface) -> None:
        first = self._next()
        if self._skip(":"):
            package = f"{first}:{self._next()}"
            self._expect("/")
            source = self._find(f"{package}/{self._next()}")
        else:
            source = self._found[f"{self._package}/{first}"]
        self._expect(".", "{")
        while not self._skip("}"):
            name = self._next()
            interface.types[self._next() if self._skip("as") else name] = source.types[name]
            self._skip(",")
        self._expect(";")

    def _resource(self, interface: Interface) -> None:
        name = self._next()
        resource = Resource(f"{interface.name} {name}")
        interface.types[name] = resource
        if self._skip(";"):
            return
        self._expect("{")
        while not self._skip("}"):
            word = self._next()
            if word == "constructor":
                made = self._function(interface, (), Own(resource))
                interface.functions[f"[constructor]{name}"] = made
            else:
                self._expect(":")
                static = self._skip("static")
                self._expect("func")
                own = () if static else (("self", Borrow(resource)),)
                kind = "static" if static else "method"
                interface.functions[f"[{kind}]{name}.{word}"] = self._function(interface, own)
            self._expect(";")

    def _function(
        self,
        interface: Interface,
        first: tuple[tuple[str, Type], ...],
        result: Type | None = None,
    ) -> Function:
        self._expect("(")
        parameters = list(first)
        while not self._skip(")"):
            name = self._next()
            self._expect(":")
            parameters.append((name, self._type(interface)))
            self._skip(",")
        if self._skip("->"):
            result = self._type(interface)
        return Function(tuple(parameters), result)

    def _composed(self, interface: Interface, kind: str) -> Type:
        self._expect("{")
        names: list[str] = []
        types: list[Type | None] = []
        while not self._skip("}"):
            names.append(self._next())
            types.append(None)
            if kind == "record":
                self._expect(":")
                types[-1] = self._type(interface)
            elif kind == "variant" and self._skip("("):
                types[-1] = self._type(interface)
                self._expect(")")
            self._skip(",")
        if kind == "record":
            return Record(tuple((n, t) for n, t in zip(names, types, strict=True) if t is not None))
        if kind == "variant":
            return Variant(tuple(zip(names, types, strict=True)))
        return Enum(tuple(names)) if kind == "enum" else Flags(tuple(names))

    def _type(self, interface: Interface) -> Type:
        word = self._next()
        if word in _PRIMITIVES:
            return Primitive(word)
        if word in ("list", "option", "tuple"):
            self._expect("<")
            parts = []
            while not self._skip(">"):
                parts.append(self._type(interface))
                self._skip(",")
            if word == "tuple":
                return Tuple(tuple(parts))
            return Listed(parts[0]) if word == "list" else Option(parts[0])
        if word == "result":
            return self._result(interface)
        if word in ("borrow", "own"):
            self._expect("<")
            resource = interface.types[self._next()]
            self._expect(">")
            if not isinstance(resource, Resource):
                raise ValueError(f"no resource: {resource}")
            return Borrow(resource) if word == "borrow" else Own(resource)
        found = interface.types[word]
        return Own(found) if isinstance(found, Resource) else found

    def _result(self, interface: Interface) -> Type:
        ok: Type | None = None
        err: Type | None = None
        if self._skip("<"):
            ok = None if self._skip("_") else self._type(interface)
            if self._skip(","):
                err = self._type(interface)
            self._expect(">")
        return Result(ok, err)
