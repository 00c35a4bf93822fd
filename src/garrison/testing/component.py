"""Makes small components, for tests: a core module in text, and the functions that it imports.

A component is made of three parts: a core module with a memory and an allocator, the lowered
imports, and the core module that is under test.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from garrison.keep.component import interfaces
from garrison.keep.component import types as t
from garrison.keep.component.binary import PRIMITIVES
from garrison.keep.component.callbacks import lowered_signature
from garrison.keep.engine.library import wat2wasm

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import Any

PREAMBLE = b"\0asm\x0d\0\1\0"

# Gives room from 64 KiB on, and takes none back.
ALLOCATOR = """
  (global $next (mut i32) (i32.const 65536))
  (func (export "realloc") (param i32 i32 i32 i32) (result i32)
    (global.set $next (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
    (global.get $next)
    (global.set $next (i32.add (global.get $next) (local.get 3))))
"""
_MEMORY = '(module (memory (export "memory") 32) {allocator})'
_PRIMITIVE = {name: byte for byte, name in PRIMITIVES.items()}
_WAT = {"I": "i32", "Q": "i64", "f": "f32", "d": "f64"}


def number(value: int) -> bytes:
    """An unsigned LEB128."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _positive(value: int) -> bytes:
    """A signed LEB128 of a number that is not negative."""
    out = bytearray(number(value))
    if out[-1] & 0x40:
        out[-1] |= 0x80
        out.append(0)
    return bytes(out)


def name(text: str) -> bytes:
    """A name."""
    data = text.encode()
    return number(len(data)) + data


def vector(items: Iterable[bytes]) -> bytes:
    """A list."""
    parts = list(items)
    return number(len(parts)) + b"".join(parts)


def section(kind: int, items: Iterable[bytes]) -> bytes:
    """A section that is a list."""
    data = vector(items)
    return bytes([kind]) + number(len(data)) + data


class Encoder:
    """Writes definitions, and counts what each index space holds."""

    def __init__(self) -> None:
        self.out = bytearray(PREAMBLE)
        self._counts: dict[str, int] = {}
        # Of each type with a name that was imported, its index.
        self._types: dict[object, int] = {}

    def add(self, space: str, kind: int, item: bytes) -> int:
        """Write one definition; its index."""
        self.out += section(kind, [item])
        return self.next(space)

    def next(self, space: str) -> int:
        """The index of what was just written."""
        index = self._counts.get(space, 0)
        self._counts[space] = index + 1
        return index

    def core_module(self, wasm: bytes) -> int:
        """A core module."""
        self.out += b"\1" + number(len(wasm)) + wasm
        return self.next("module")

    def core_instance(self, module: int, arguments: Mapping[str, int]) -> int:
        """An instance of a core module."""
        given = vector(name(key) + b"\x12" + number(index) for key, index in arguments.items())
        return self.add("core instance", 2, b"\0" + number(module) + given)

    def core_alias(self, sort: int, space: str, instance: int, export: str) -> int:
        """An export of a core instance."""
        return self.add(space, 6, bytes([0, sort, 1]) + number(instance) + name(export))

    def use(self, interface: t.Interface, functions: Iterable[str], version: str) -> int:
        """Import all types and some functions of an interface; the instance's index."""
        scope = _InstanceType(self._types)
        for label, kind in interface.types.items():
            if isinstance(kind, _NAMED):
                scope.named(label, kind)
        for function in sorted(functions):
            scope.function(function, interface.functions[function])
        kind_index = self.add("type", 7, b"\x42" + vector(scope.declarations))
        index = self.add(
            "instance",
            10,
            b"\0" + name(f"{interface.name}@{version}") + b"\5" + number(kind_index),
        )
        for label, kind in interface.types.items():
            if isinstance(kind, _NAMED) and kind not in self._types:
                alias = b"\3\0" + number(index) + name(label)
                self._types[kind] = self.add("type", 6, alias)
        return index

    def resource(self, kind: t.Resource) -> int:
        """The type index of a resource that was imported."""
        return self._types[kind]


# What is known by a name: one is the same as another of the same name only.
_NAMED = t.Resource | t.Record | t.Variant | t.Enum | t.Flags


class _InstanceType:
    """The declarations of an instance type, with its own index space of types."""

    def __init__(self, outer: Mapping[object, int]) -> None:
        self.declarations: list[bytes] = []
        self._outer = outer
        self._known: dict[object, int] = {}
        self._count = 0

    def _declare(self, data: bytes) -> int:
        self.declarations.append(data)
        self._count += 1
        return self._count - 1

    def named(self, label: str, kind: t.Type | t.Resource) -> None:
        """Declare a type that has a name: from elsewhere, if it was imported before."""
        bound = b"\1"
        if kind in self._known:
            # Another name of it.
            bound = b"\0" + number(self._known[kind])
        elif kind in self._outer:
            bound = b"\0" + number(self._declare(b"\2\3\2\1" + number(self._outer[kind])))
        elif not isinstance(kind, t.Resource):
            bound = b"\0" + number(self._declare(b"\1" + self._defined(kind)))
        named = self._declare(b"\4\0" + name(label) + b"\3" + bound)
        self._known.setdefault(kind, named)

    def function(self, label: str, kind: t.Function) -> None:
        """Declare a function."""
        parameters = vector(name(n) + self.value(part) for n, part in kind.parameters)
        result = b"\1\0" if kind.result is None else b"\0" + self.value(kind.result)
        index = self._declare(b"\1\x40" + parameters + result)
        self.declarations.append(b"\4\0" + name(label) + b"\1" + number(index))

    def _optional(self, kind: t.Type | None) -> bytes:
        return b"\0" if kind is None else b"\1" + self.value(kind)

    def value(self, kind: t.Type) -> bytes:
        """A type, declared if it is not a primitive."""
        if isinstance(kind, t.Primitive):
            return bytes([_PRIMITIVE[kind.name]])
        if kind not in self._known:
            self._known[kind] = self._declare(b"\1" + self._defined(kind))
        return _positive(self._known[kind])

    def _defined(self, kind: t.Type) -> bytes:
        match kind:
            case t.Record(fields):
                return b"\x72" + vector([name(n) + self.value(part) for n, part in fields])
            case t.Variant(cases):
                return b"\x71" + vector([name(n) + self._optional(p) + b"\0" for n, p in cases])
            case t.Listed(part):
                return b"\x70" + self.value(part)
            case t.Tuple(parts):
                return b"\x6f" + vector([self.value(part) for part in parts])
            case t.Flags(labels):
                return b"\x6e" + vector(map(name, labels))
            case t.Enum(labels):
                return b"\x6d" + vector(map(name, labels))
            case t.Option(part):
                return b"\x6b" + self.value(part)
            case t.Result(ok, err):
                return b"\x6a" + self._optional(ok) + self._optional(err)
            case t.Own(resource):
                return b"\x69" + number(self._known[resource])
            case t.Borrow(resource):
                return b"\x68" + number(self._known[resource])
        raise AssertionError(kind)


def _ordered(used: Iterable[str]) -> list[t.Interface]:
    """Interfaces and those whose types they use, each after what it uses."""
    every = interfaces.known()
    owners: dict[int, t.Interface] = {}
    for interface in every:
        for kind in interface.types.values():
            owners.setdefault(id(kind), interface)
    wanted: set[str] = set()

    def want(interface: t.Interface) -> None:
        if interface.name not in wanted:
            wanted.add(interface.name)
            for kind in interface.types.values():
                if isinstance(kind, _NAMED):
                    want(owners[id(kind)])

    for interface in every:
        if interface.name in used:
            want(interface)
    return [interface for interface in every if interface.name in wanted]


def command(
    body: str | bytes,
    functions: Mapping[str, tuple[str, str]],
    *,
    drops: Mapping[str, tuple[str, str]] | None = None,
    version: str = "0.2.0",
    allocator: str = ALLOCATOR,
    exports: Sequence[str] = ("run",),
) -> bytes:
    """Make a component of the world `wasi:cli/command`.

    Args:
        body: the core module's fields in text, with `(func (export "run") (result i32) ...)`; it
            has the memory, and the imports by their names. Or a core module that imports them
            from `host`, and its memory from `env`.
        functions: what it imports: its own name for it, the interface and the function.
        drops: functions that drop a handle: its own name for it, the interface and the resource.
        version: of the interfaces of WASI.
        allocator: the fields of the module that allocates.
        exports: what it is begun with, by the names in its module: `run`, `handle`, or both.
    """
    out = Encoder()
    memory_module = out.core_module(wat2wasm(_MEMORY.format(allocator=allocator)))
    memory_instance = out.core_instance(memory_module, {})
    memory = out.core_alias(2, "memory", memory_instance, "memory")
    realloc = out.core_alias(0, "core func", memory_instance, "realloc")
    options = vector([b"\0", b"\3" + number(memory), b"\4" + number(realloc)])
    lowered: dict[str, tuple[int, str]] = {}
    dropped = drops or {}
    used = [interface for interface, _ in (*functions.values(), *dropped.values())]
    for ours in _ordered(used):
        mine = {label: f for label, (interface, f) in functions.items() if interface == ours.name}
        instance = out.use(ours, set(mine.values()), _version(ours.name, version))
        for label, function in mine.items():
            index = out.add("func", 6, b"\1\0" + number(instance) + name(function))
            core = out.add("core func", 8, b"\1\0" + number(index) + options)
            lowered[label] = (core, _declared(*lowered_signature(ours.functions[function])))
    for label, (interface, short) in dropped.items():
        resource = interfaces.find(f"{interface}@{_version(interface, version)}").types[short]
        if not isinstance(resource, t.Resource):
            raise TypeError(f"{short} is no resource")
        core = out.add("core func", 8, b"\3" + number(out.resource(resource)))
        lowered[label] = (core, "(param i32)")
    bundle = vector(name(label) + b"\0" + number(core) for label, (core, _) in lowered.items())
    host = out.add("core instance", 2, b"\1" + bundle)
    declared = "".join(
        f'(import "host" "{label}" (func ${label} {signature}))'
        for label, (_, signature) in lowered.items()
    )
    if isinstance(body, bytes):
        main = out.core_module(body)
    else:
        text = f'(module {declared} (import "env" "memory" (memory 1)) {body})'
        main = out.core_module(wat2wasm(text))
    instance = out.core_instance(main, {"host": host, "env": memory_instance})
    for export in exports:
        encode = {"run": _exported, "handle": _handler}[export]
        encode(out, out.core_alias(0, "core func", instance, export))
    return bytes(out.out)


def handler(body: str | bytes, functions: Mapping[str, tuple[str, str]], **given: Any) -> bytes:
    """Make a component of the world `wasi:http/proxy`, as `command` does.

    Args:
        body: as for `command`, with `(func (export "handle") (param i32 i32) ...)`.
        functions: likewise.
        given: the rest of its parameters.
    """
    drops = {"drop-outparam": ("wasi:http/types", "response-outparam")} | given.pop("drops", {})
    drops["drop-request"] = ("wasi:http/types", "incoming-request")
    return command(body, functions, drops=drops, **{"exports": ("handle",)} | given)


def write_wit(folder: Path, world: str, version: str = "0.2.0") -> None:
    """Write what toolchains want: a world, and the packages that a keep has under `deps`.

    Args:
        folder: where.
        world: the world's items, such as `export wasi:cli/run@0.2.0;`; it is called `guest`.
        version: of WASI's packages.
    """
    (folder / "world.wit").write_text(f"package garrison:example;\nworld guest {{ {world} }}\n")
    for package, text in interfaces.packages().items():
        versioned = re.sub(
            r"((?:wasi|garrison):[a-z]+)(/[a-z-]+)?",
            lambda found: f"{found[0]}@{_version(found[1], version)}",
            # Toolchains know these two under a feature gate only.
            re.sub(r"(exit-with-code|network-error-code): func.*;", "", text),
        )
        path = folder / "deps" / package.replace(":", "-") / "package.wit"
        path.parent.mkdir(parents=True)
        path.write_text(versioned)


def _version(interface: str, wasi: str) -> str:
    return wasi if interface.startswith("wasi:") else "0.1.0"


def _exported(out: Encoder, run: int) -> None:
    result = out.add("type", 7, b"\x6a\0\0")
    kind = out.add("type", 7, b"\x40\0\0" + _positive(result))
    function = out.add("func", 8, b"\0\0" + number(run) + b"\0" + number(kind))
    instance = out.add(
        "instance", 5, b"\1" + vector([b"\0" + name("run") + b"\1" + number(function)])
    )
    out.add("instance", 11, b"\0" + name("wasi:cli/run@0.2.0") + b"\5" + number(instance) + b"\0")


def _handler(out: Encoder, handle: int) -> None:
    types = interfaces.find("wasi:http/types@0.2.0").types
    parameters = []
    for label, short in (("request", "incoming-request"), ("response-out", "response-outparam")):
        resource = types[short]
        if not isinstance(resource, t.Resource):
            raise TypeError(f"{short} is no resource")
        own = out.add("type", 7, b"\x69" + number(out.resource(resource)))
        parameters.append(name(label) + _positive(own))
    kind = out.add("type", 7, b"\x40" + vector(parameters) + b"\1\0")
    function = out.add("func", 8, b"\0\0" + number(handle) + b"\0" + number(kind))
    instance = out.add(
        "instance", 5, b"\1" + vector([b"\0" + name("handle") + b"\1" + number(function)])
    )
    exported = name("wasi:http/incoming-handler@0.2.0")
    out.add("instance", 11, b"\0" + exported + b"\5" + number(instance) + b"\0")


def _declared(parameters: str, result: str) -> str:
    text = "".join(f"(param {_WAT[letter]})" for letter in parameters)
    return text + "".join(f"(result {_WAT[letter]})" for letter in result)
