"""The types of values, as values cross between a component and the host.

Two types are the same if they are built alike; two resources are the same if they are one. None
of these is made from what a component says without having been compared to one of ours, so that
no component decides how deep a type goes.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass
else:
    from garrison.keep.component.record import dataclass


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


@dataclass(frozen=True, slots=True)
class Primitive:
    """A number, `bool`, `char` or `string`."""

    name: str


@dataclass(frozen=True, slots=True)
class Record:
    """Named fields; the value is a tuple of theirs."""

    fields: tuple[tuple[str, Type], ...]


@dataclass(frozen=True, slots=True)
class Tuple:
    """Fields without names; the value is a tuple of theirs."""

    parts: tuple[Type, ...]


@dataclass(frozen=True, slots=True)
class Variant:
    """One of some cases; the value is the case's name and what it carries, None if nothing."""

    cases: tuple[tuple[str, Type | None], ...]


@dataclass(frozen=True, slots=True)
class Enum:
    """One of some names; the value is the name."""

    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Flags:
    """Some of some names; the value is a frozen set of them."""

    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Listed:
    """Any number of values; bytes (for `u8`) or a list."""

    part: Type


@dataclass(frozen=True, slots=True)
class Option:
    """A value, or None."""

    part: Type


@dataclass(frozen=True, slots=True)
class Result:
    """The pair of "ok" or "err" and what it carries, None if nothing."""

    ok: Type | None
    err: Type | None


@dataclass(frozen=True, slots=True)
class Own:
    """A handle that goes over to the receiver; the value is what it stands for."""

    resource: Resource


@dataclass(frozen=True, slots=True)
class Borrow:
    """A handle that is lent for one call; the value is what it stands for."""

    resource: Resource


Type = Primitive | Record | Tuple | Variant | Enum | Flags | Listed | Option | Result | Own | Borrow


@dataclass(frozen=True, slots=True)
class Function:
    """A function's type."""

    parameters: tuple[tuple[str, Type], ...]
    result: Type | None


@dataclass(frozen=True, slots=True)
class Interface:
    """What an instance has, by name: types and resources, and functions.

    Functions of a resource are named as in a component: `[method]r.f`, `[static]r.f`,
    `[constructor]r`.

    Attributes:
        name: with its package, without version, such as `wasi:io/streams`.
    """

    name: str
    types: dict[str, Type | Resource]
    functions: dict[str, Function]
