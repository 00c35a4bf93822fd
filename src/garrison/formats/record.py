"""Data classes for what stands on the way of a start.

The module `dataclasses` takes 11 ms to import, for it imports a compiler and a disassembler, and
half a millisecond for each class, whose methods it writes and compiles; in an emulated machine
that is a quarter of a second. A whole start should take few times as long. So classes that a start
makes are made of `Record`, which a type checker takes for `dataclass(frozen=True, slots=True)`:

    class Frame(Record):
        kind: Kind
        body: bytes
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar, dataclass_transform

    T = TypeVar("T")
else:

    def dataclass_transform(**_told: object) -> Callable[[T], T]:
        """Tell a type checker, and nobody else: `typing` takes long to import."""
        return lambda made: made


@dataclass_transform(frozen_default=True)
class _Made(type):
    """What makes the classes: their annotations are their fields, in order."""

    def __new__(
        cls, name: str, bases: tuple[type, ...], body: dict[str, Any], *, eq: bool = True
    ) -> _Made:
        """Make a class; without `eq` each value of it is equal to itself alone."""
        if any(getattr(base, "__slots__", ()) for base in bases):
            raise TypeError(f"{name}: a record with fields has no classes below it")
        fields = tuple(body.get("__annotations__", ()))
        defaults = {field: body.pop(field) for field in fields if field in body}
        setters: list[Callable[[object, object], None]] = []

        def construct(self: object, *values: object, **named: object) -> None:
            if named or len(values) != len(fields):
                left = fields[len(values) :]
                given = {**defaults, **named}
                if len(values) > len(fields) or not named.keys() <= set(left) <= given.keys():
                    raise TypeError(f"{name} takes {', '.join(fields) or 'nothing'}, each once")
                values += tuple([given[field] for field in left])
            for setter, value in zip(setters, values, strict=True):
                setter(self, value)

        body.update(__slots__=fields, __match_args__=fields, __init__=construct)
        if not eq:
            body.update(__eq__=object.__eq__, __hash__=object.__hash__)
        made = super().__new__(cls, name, bases, body)
        setters += [vars(made)[field].__set__ for field in fields]
        return made


class Record(metaclass=_Made):
    """Named values, which cannot be changed, and equal to one of its class that has the same."""

    def __eq__(self, other: object) -> bool:
        """Compare the class and the values."""
        if self is other:
            return True
        return type(self) is type(other) and _values(self) == _values(other)

    def __hash__(self) -> int:
        """Hash the class and the values; TypeError if one of these cannot be."""
        return hash((type(self), _values(self)))

    def __setattr__(self, name: str, _value: object) -> None:
        """Refuse it."""
        raise AttributeError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        """Refuse it."""
        raise AttributeError(f"cannot delete field {name!r}")

    def __repr__(self) -> str:
        """Name the class, not the values: a component decides how deep those go."""
        return f"{type(self).__name__}(...)"


def _values(record: Any) -> tuple[object, ...]:
    return tuple([getattr(record, name) for name in record.__match_args__])
