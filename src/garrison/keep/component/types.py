"""The types of values, as values cross between a component and the host.

Two types are the same if they are built alike; two resources are the same if they are one. None
of these is made from what a component says without having been compared to one of ours, so that
no component decides how deep a type goes.
"""

from __future__ import annotations

from garrison.formats import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Resource:
    """A kind of thing that a component holds by a handle.

    Args:
        name: what it is called.

    Attributes:
        drop: told of what a handle stood for, when its last owner drops it.
    """

    __slots__ = ("drop", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.drop: Callable[[object], None] | None = None


class Primitive(record.Record):
    """A number, `bool`, `char` or `string`."""

    name: str


class Record(record.Record):
    """Named fields; the value is a tuple of theirs."""

    fields: tuple[tuple[str, Type], ...]


class Tuple(record.Record):
    """Fields without names; the value is a tuple of theirs."""

    parts: tuple[Type, ...]


class Variant(record.Record):
    """One of some cases; the value is the case's name and what it carries, None if nothing."""

    cases: tuple[tuple[str, Type | None], ...]


class Enum(record.Record):
    """One of some names; the value is the name."""

    labels: tuple[str, ...]


class Flags(record.Record):
    """Some of some names; the value is a frozen set of them."""

    labels: tuple[str, ...]


class Listed(record.Record):
    """Any number of values; bytes (for `u8`) or a list."""

    part: Type


class Option(record.Record):
    """A value, or None."""

    part: Type


class Result(record.Record):
    """The pair of "ok" or "err" and what it carries, None if nothing."""

    ok: Type | None
    err: Type | None


class Own(record.Record):
    """A handle that goes over to the receiver; the value is what it stands for."""

    resource: Resource


class Borrow(record.Record):
    """A handle that is lent for one call; the value is what it stands for."""

    resource: Resource


Type = Primitive | Record | Tuple | Variant | Enum | Flags | Listed | Option | Result | Own | Borrow


class Function(record.Record):
    """A function's type."""

    parameters: tuple[tuple[str, Type], ...]
    result: Type | None


class Interface(record.Record):
    """What an instance has, by name: types and resources, and functions.

    Functions of a resource are named as in a component: `[method]r.f`, `[static]r.f`,
    `[constructor]r`.

    Attributes:
        name: with its package, without version, such as `wasi:io/streams`.
    """

    name: str
    types: dict[str, Type | Resource]
    functions: dict[str, Function]
