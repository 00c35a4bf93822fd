"""Calls out of a component that come often: one Python function, written for the type of each.

`callbacks.runner` goes through a function's type at each call; what is made here has done that
once, which takes as long as some hundred calls. Numbers, borrowed handles and lists of bytes cross
in place, with every check of the codecs' (`abi`) that they stand for; all other values, and every
error, cross by the codecs themselves. The source is of nothing but our own types: no name or value
in it comes from a component.
"""

from __future__ import annotations

from _struct import Struct  # `struct` is no more than this, and one file more to load

from garrison.keep.component import types as t
from garrison.keep.component.abi import codec
from garrison.keep.component.callbacks import MAX_FLAT_PARAMETERS, MAX_FLAT_RESULTS, Failed
from garrison.keep.engine.store import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType
    from typing import Any

    from garrison.keep.component.boundary import Boundary
    from garrison.keep.component.callbacks import Body, Run, State

_U32, _U64, _BOOL = t.Primitive("u32"), t.Primitive("u64"), t.Primitive("bool")
_BYTES = t.Listed(t.Primitive("u8"))
_PUT: dict[t.Type, Callable[..., None]] = {
    _U32: Struct("<I").pack_into,
    _U64: Struct("<Q").pack_into,
}
_put_pair = Struct("<II").pack_into
# By source, for most functions have the type of another.
_known: dict[str, CodeType] = {}


def compiled(state: State, boundary: Boundary, kind: t.Function, body: Body) -> Run | None:
    """Make what does the same as `callbacks.runner`, in less time; None for what is too rare.

    That is a function that is given one handle for good and another for the call only, which then
    could be the same; or so many parameters that they are in memory; or that was given no memory.
    """
    kinds = [part for _, part in kind.parameters]
    flat = [codec(part).flat for part in kinds]
    count = sum(map(len, flat))
    mixed = any(isinstance(part, t.Own) for part in kinds) and any(map(_lends, kinds))
    if mixed or count > MAX_FLAT_PARAMETERS or boundary.memory is None:
        return None
    source = _Source(state, boundary, body)
    result = None if kind.result is None else codec(kind.result)
    by_address = result is not None and len(result.flat) > MAX_FLAT_RESULTS
    if by_address and result is not None:
        source.result_at(count, result.size, result.align)
    at, arguments = 0, []
    for part, letters in zip(kinds, flat, strict=True):
        arguments.append(source.lift(part, at))
        at += len(letters)
    source.call(arguments, kind.result, by_address=by_address)
    return source.function(count + by_address)


def _lends(kind: Any) -> bool:
    """Whether there is a borrowed handle anywhere in a type."""
    if isinstance(kind, t.Borrow):
        return True
    parts = kind if isinstance(kind, tuple) else [getattr(kind, n) for n in _parts_of(kind)]
    return any(map(_lends, parts))


def _parts_of(kind: Any) -> tuple[str, ...]:
    # What is no type, such as a name, has no parts.
    return kind.__match_args__ if isinstance(kind, t.Type) else ()


class _Source:
    """A function's lines, and what its names stand for."""

    def __init__(self, state: State, boundary: Boundary, body: Body) -> None:
        self._lines: list[str] = []
        self._names: dict[str, Any] = {
            "state": state,
            "boundary": boundary,
            "handles": boundary.handles,
            "entries": boundary.handles.entries,
            "memory": boundary.memory,
            "body": body,
            # `Boundary.allocate` says that there is none.
            "allocate": boundary.realloc or boundary.allocate,
            "put_pair": _put_pair,
            "Failed": Failed,
        }

    def _named(self, prefix: str, value: object) -> str:
        """A name for a value."""
        name = f"{prefix}_{len(self._names)}"
        self._names[name] = value
        return name

    def _add(self, text: str, depth: int = 0) -> None:
        """Add lines, so much deeper than they are written."""
        self._lines += ["    " * (2 + depth) + line for line in text.splitlines()]

    def result_at(self, number: int, size: int, align: int) -> None:
        """See where the result goes, before anything is done: core value `number` is its address.

        `Boundary.at` says what is wrong.
        """
        if align > 1:
            self._add(f"if v{number} % {align}:\n    boundary.at(v{number}, {size}, {align})")
        self._add(f"out = memory.view(v{number}, {size})")

    def lift(self, kind: t.Type, at: int) -> str:
        """Lift a parameter whose first core value is number `at`; an expression for it."""
        if kind in (_U32, _U64):
            return f"v{at}"
        if kind == _BOOL:
            return f"v{at} != 0"
        if isinstance(kind, t.Borrow):
            resource = self._named("resource", kind.resource)
            # `Handles.get` says what is wrong.
            self._add(
                f"h{at} = entries.get(v{at})\n"
                f"if h{at} is None or h{at}.resource is not {resource}:\n"
                f"    h{at} = handles.get(v{at}, {resource})"
            )
            return f"h{at}.thing"
        if isinstance(kind, t.Own):
            resource = self._named("resource", kind.resource)
            self._add(f"a{at} = handles.take(v{at}, {resource})")
            return f"a{at}"
        if kind == _BYTES:
            self._add(f"a{at} = memory.view(v{at}, v{at + 1})")
            return f"a{at}"
        if "boundary.begin()" not in "".join(self._lines):
            self._add("boundary.begin()")
        lift = self._named("lift", codec(kind).lift)
        self._add(f"a{at} = {lift}(boundary, flat, {at})")
        return f"a{at}"

    def call(self, arguments: list[str], result: t.Type | None, *, by_address: bool) -> None:
        """Call the body, and lower its result."""
        call = f"body({', '.join(['state.host', *arguments])})"
        if result is None:
            self._add(call)
            return
        if not isinstance(result, t.Result):
            self._add(f"value = {call}")
            self._lowered(result, "value", by_address=by_address)
            return
        self._add(f"try:\n    value = {call}\nexcept Failed as error:")
        self._lowered(result, '("err", error.value)', by_address=by_address, depth=1)
        self._add("else:")
        # The other case is stored by its codec; this one as that would: its number, 0, of one byte,
        # and then its value at a multiple of the alignment of both.
        if not by_address:
            self._lowered(result, '("ok", value)', by_address=False, depth=1)
            return
        self._add("out[0] = 0", 1)
        if result.ok is not None:
            parts = [codec(part) for part in (result.ok, result.err) if part is not None]
            self._stored(result.ok, "value", max(part.align for part in parts), 1)

    def _lowered(self, kind: t.Type, value: str, *, by_address: bool, depth: int = 0) -> None:
        if by_address:
            self._stored(kind, value, 0, depth)
            return
        lower, pack = codec(kind).lower, values(codec(kind).flat).pack_into
        lower_name, pack_name = self._named("lower", lower), self._named("pack", pack)
        self._add(
            f"state.may_leave = False\n"
            f"{pack_name}(view, 0, *{lower_name}(boundary, {value}))\n"
            f"state.may_leave = True",
            depth,
        )

    def _stored(self, kind: t.Type, value: str, place: int, depth: int) -> None:
        if kind in _PUT:
            # Nothing of the component's runs for it.
            put = self._named("put", _PUT[kind])
            self._add(f"{put}(out, {place}, {value})", depth)
            return
        self._add("state.may_leave = False", depth)
        if kind == _BYTES:
            self._add(
                f"size = len({value})\n"
                f"address = allocate(size, 1)\n"
                f"memory.view(address, size)[:] = {value}\n"
                f"put_pair(out, {place}, address, size)",
                depth,
            )
        else:
            store = self._named("store", codec(kind).store)
            self._add(f"{store}(boundary, {value}, out, {place})", depth)
        self._add("state.may_leave = True", depth)

    def function(self, count: int) -> Run:
        """Make it, of `count` core values."""
        core = "".join(f"v{index}, " for index in range(count))
        source = "\n".join(
            (
                f"def made({', '.join(self._names)}):",
                "    def run(flat, view):",
                f"        {core or '()'} = flat",
                *self._lines,
                "    return run",
            )
        )
        code = _known.get(source)
        if code is None:
            code = _known[source] = compile(source, "<a call out of a component>", "exec")
        made: dict[str, Any] = {}
        exec(code, made)  # noqa: S102  (see above what it is made of)
        run: Run = made["made"](**self._names)
        return run
