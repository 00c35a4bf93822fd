"""Calls out of a component: what the engine calls, and how that reaches the functions of ours.

Rules: no exception ever enters the engine (what a function of ours fails with is the component's
where the function's type says so, everything else ends it by a trap and is kept in `State`);
where a result goes is checked before anything is done; a component calls nothing while its own
allocator runs for us.
"""

from __future__ import annotations

from garrison.keep.component import types as t
from garrison.keep.component.abi import codec, fields
from garrison.keep.engine import c
from garrison.keep.engine.failures import Trap
from garrison.keep.engine.runtime import last_trap
from garrison.keep.engine.store import VALUE_SIZE, HostFunction, values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from struct import Struct
    from typing import Any

    from garrison.keep.component.boundary import Boundary
    from garrison.keep.component.handles import Handles
    from garrison.keep.component.link import HandleFunction

    Body = Callable[..., Any]
    Run = Callable[[tuple[Any, ...], memoryview], None]

# CanonicalABI.md, MAX_FLAT_PARAMS and MAX_FLAT_RESULTS.
MAX_FLAT_PARAMETERS = 16
MAX_FLAT_RESULTS = 1
# A component that calls at ever other depths of its stack shall not fill our memory.
_MAX_KNOWN = 64
# After so many calls a function is written for its type.
_OFTEN = 100


class Failed(Exception):
    """A function of ours fails with a value of its error type.

    Args:
        value: the value.
    """

    def __init__(self, value: object) -> None:
        super().__init__(value)
        self.value = value


class State:
    """What all calls out of one instance share.

    Attributes:
        host: the first argument of each function of ours.
        may_leave: whether it may call out now (CanonicalABI.md, `may_leave`).
        failure: what ended it from inside a function, if that was it.
    """

    __slots__ = ("failure", "host", "may_leave")

    def __init__(self) -> None:
        self.begin(None)

    def begin(self, host: object) -> None:
        """Be those of a new instance."""
        self.host = host
        self.may_leave = True
        self.failure: BaseException | None = None


def lowered_signature(kind: t.Function) -> tuple[str, str]:
    """The core types of a function's parameters and result, as a component imports it."""
    flat = fields([part for _, part in kind.parameters]).flat
    flat = flat if len(flat) <= MAX_FLAT_PARAMETERS else "I"
    returned = "" if kind.result is None else codec(kind.result).flat
    return (flat + "I", "") if len(returned) > MAX_FLAT_RESULTS else (flat, returned)


def lowered(state: State, boundary: Boundary, kind: t.Function, body: Body) -> HostFunction:
    """Make what the engine calls for an import of type `kind`, which `body` serves."""
    flat, returned = lowered_signature(kind)

    def often() -> Run | None:
        from garrison.keep.component.compiled import compiled  # late: few calls come often

        return compiled(state, boundary, kind, body)

    run = runner(state, boundary, kind, body)
    return HostFunction(flat, returned, _callback(state, run, values(flat), often))


def handle_function(
    state: State, handles: Handles, ref: HandleFunction, destroy: Callable[[int], None]
) -> HostFunction:
    """Make what the engine calls for `resource.new`, `.rep` or `.drop`.

    Args:
        state: of the instance.
        handles: its own.
        ref: which of the three, and of which resource.
        destroy: calls the destructor of the component's own resource.
    """
    resource = ref.resource
    one = values("I")

    def new(flat: tuple[Any, ...], view: memoryview) -> None:
        one.pack_into(view, 0, handles.add(resource, flat[0]))

    def rep(flat: tuple[Any, ...], view: memoryview) -> None:
        one.pack_into(view, 0, handles.get(flat[0], resource).thing)

    def drop(flat: tuple[Any, ...], _view: memoryview) -> None:
        thing: Any = handles.take(flat[0], resource)
        if ref.destructor is not None:
            destroy(thing)
        elif resource.drop is not None:
            resource.drop(thing)

    run = {"new": new, "rep": rep, "drop": drop}[ref.kind]
    return HostFunction("I", "" if ref.kind == "drop" else "I", _callback(state, run, one))


def runner(state: State, boundary: Boundary, kind: t.Function, body: Body) -> Run:
    """Make what lifts the parameters, calls the `body` and lowers the result."""
    run = _run(state, boundary, kind, body)
    owns = any(isinstance(part, t.Own) for _, part in kind.parameters)
    return _noting(boundary, run) if owns else run


def _run(state: State, boundary: Boundary, kind: t.Function, body: Body) -> Run:
    parameters = fields([part for _, part in kind.parameters])
    flat, returned = lowered_signature(kind)
    result = None if kind.result is None else codec(kind.result)
    spilled = len(parameters.flat) > MAX_FLAT_PARAMETERS
    by_address = result is not None and not returned
    fails = isinstance(kind.result, t.Result)
    pack = values(returned).pack_into
    last = len(flat) - 1

    def run(flat_values: tuple[Any, ...], view: memoryview) -> None:
        out = None
        if by_address and result is not None:
            # Before anything is done.
            out = boundary.at(flat_values[last], result.size, result.align)
        boundary.begin()
        if spilled:
            inside = boundary.at(flat_values[0], parameters.size, parameters.align)
            arguments = parameters.load(boundary, inside, 0)
        else:
            arguments = parameters.lift(boundary, flat_values, 0)
        try:
            value = body(state.host, *arguments)
        except Failed as error:
            if not fails:
                raise
            value = ("err", error.value)
        else:
            if fails:
                value = ("ok", value)
        if result is None:
            return
        state.may_leave = False
        if out is not None:
            result.store(boundary, value, out, 0)
        else:
            pack(view, 0, *result.lower(boundary, value))
        state.may_leave = True

    return run


def _callback(
    state: State, run: Run, layout: Struct, often: Callable[[], Run | None] | None = None
) -> Callable[[None, int, int], int]:
    # The values are on the engine's stack, at one of few addresses.
    known: dict[int, memoryview] = {}
    usual, calls = run, 0

    def counted(flat_values: tuple[Any, ...], view: memoryview) -> None:
        nonlocal run, calls
        calls += 1
        if calls == _OFTEN and often is not None:
            run = often() or usual
        usual(flat_values, view)

    run = usual if often is None else counted
    unpack, size = layout.unpack_from, max(layout.size, VALUE_SIZE)

    def callback(_environment: None, _caller: int, at: int) -> int:
        try:
            view = known.get(at)
            if view is None:
                if len(known) >= _MAX_KNOWN:
                    known.clear()
                view = known[at] = c.memory_at(at, size)
            if not state.may_leave:
                _refuse_to_leave()
            run(unpack(view), view)
        except MemoryError:
            state.failure = Trap("the guest failed: there is no memory left for what it asks")
            return last_trap(b"ended by the host")
        except BaseException as error:  # noqa: BLE001  (nothing may enter the engine)
            # The first one counts: it is what the others come of.
            state.failure = state.failure or error
            return last_trap(b"ended by the host")
        return 0

    return callback


def _refuse_to_leave() -> None:
    raise Trap("the guest failed: it calls out while its allocator runs")


def _noting(boundary: Boundary, run: Run) -> Run:
    """Note what a call borrows, so that it does not give the same away."""

    def noting(flat_values: tuple[Any, ...], view: memoryview) -> None:
        boundary.lent = []
        try:
            run(flat_values, view)
        finally:
            for handle in boundary.lent:
                handle.lent -= 1

    return noting
