"""`dataclass(frozen=True, slots=True)` for what stands on the path of a component's start.

The module `dataclasses` takes 11 ms to import and half a millisecond for each class; a
component's whole start should take few times that. So the modules that make such classes take
this at run time, and a type checker sees the real one.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def dataclass(*, frozen: bool, slots: bool, eq: bool = True) -> "Callable[[type], type]":
    """Give a class a constructor, fields that cannot be changed and, with `eq`, equality.

    Raises:
        TypeError: another kind of dataclass is asked for.
    """
    if not (frozen and slots):
        raise TypeError("only frozen ones with slots are made here")
    special = {"__eq__": _equal, "__hash__": _hashed} if eq else {}
    return lambda cls: _made(cls, **special)


def _made(cls: type, **special: "Any") -> type:
    fields = tuple(cls.__annotations__)
    body = {name: value for name, value in vars(cls).items() if name not in fields}
    defaults = {name: vars(cls)[name] for name in fields if name in vars(cls)}
    for name in ("__dict__", "__weakref__"):
        body.pop(name, None)
    setters: list[Any] = []

    def construct(self: object, *values: object, **named: object) -> None:
        for setter, value in zip(setters, values, strict=False):
            setter(self, value)
        for name, setter in zip(fields[len(values) :], setters[len(values) :], strict=True):
            value = named.pop(name) if name in named else defaults[name]
            setter(self, value)
        if named or len(values) > len(fields):
            raise TypeError(f"{cls.__name__} has no such fields")

    body.update(
        __slots__=fields,
        __match_args__=fields,
        __init__=construct,
        __setattr__=_refuse,
        __repr__=_shown,
        **special,
    )
    made = type(cls.__name__, cls.__bases__, body)
    setters += [vars(made)[name].__set__ for name in fields]
    return made


def _values(value: object) -> tuple[object, ...]:
    return tuple([getattr(value, name) for name in type(value).__slots__])  # type: ignore[attr-defined]  # `_made` gave it some


def _equal(self: object, other: object) -> bool:
    if self is other:
        return True
    return type(self) is type(other) and _values(self) == _values(other)


def _hashed(self: object) -> int:
    return hash((type(self), _values(self)))


def _refuse(_self: object, name: str, _value: object) -> None:
    raise AttributeError(f"cannot assign to field {name!r}")


def _shown(self: object) -> str:
    # Not the values: a component decides how deep those go.
    return f"{type(self).__name__}(...)"
