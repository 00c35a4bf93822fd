"""What is written for a function's type does what going through the type does, right or wrong."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from garrison.keep.component import interfaces
from garrison.keep.component import types as t
from garrison.keep.component.abi import fields
from garrison.keep.component.boundary import Boundary
from garrison.keep.component.callbacks import (
    MAX_FLAT_PARAMETERS,
    Failed,
    State,
    lowered,
    lowered_signature,
    runner,
)
from garrison.keep.component.compiled import compiled
from garrison.keep.component.handles import Handles
from garrison.keep.engine import c
from garrison.keep.engine.failures import Trap
from garrison.keep.engine.store import values

if TYPE_CHECKING:
    from collections.abc import Callable

    from garrison.keep.component.callbacks import Body, Run

_SIZE = 1 << 16
_U64 = t.Primitive("u64")
_SEEDS = 100
_FUNCTIONS = {
    f"{interface.name} {name}": kind
    for interface in interfaces.known()
    for name, kind in interface.functions.items()
}
_RESOURCES = tuple(
    kind
    for interface in interfaces.known()
    for kind in interface.types.values()
    if isinstance(kind, t.Resource)
)
_WILD = {"I": (1 << 32) - 1, "Q": (1 << 64) - 1}


class _World:
    """A component's memory and handles, and what is called from it."""

    def __init__(
        self, kind: t.Function, seed: int, make: Callable[[State, Boundary, t.Function, Body], Run]
    ) -> None:
        self._random = random.Random(seed)  # noqa: S311  (to be repeated)
        # Nothing in random bytes is UTF-8, or a case that there is.
        self.memory = bytearray(self._random.randbytes(_SIZE) if seed % 4 == 0 else _SIZE)
        self.handles = Handles(limit=80)
        kinds = [part for _, part in kind.parameters]
        wanted = [part.resource for part in kinds if isinstance(part, t.Borrow | t.Own)]
        for index in range(64):
            some = wanted if wanted and index % 2 else _RESOURCES
            self.handles.add(some[index // 2 % len(some)], f"thing {index}")
        self.state = State()
        self.state.begin("the host")
        self.calls: list[Any] = []
        self.allocated: list[tuple[int, int, bool]] = []
        self.boundary = Boundary(self, self.handles, self._allocate, budget=1 << 20)
        self._kind = kind
        self._run = make(self.state, self.boundary, kind, self._body)
        self._left: list[int] = []

    def view(self, address: int, size: int) -> memoryview:
        """As a memory does."""
        if address + size > _SIZE:
            raise Trap(f"{size} at {address} is out of bounds")
        return memoryview(self.memory)[address : address + size]

    def _allocate(self, size: int, align: int) -> int:
        self.allocated.append((size, align, self.state.may_leave))
        if self._random.random() < 0.1:
            return self._random.choice((_SIZE - 1, 4097, _WILD["I"]))
        return 1 << 14

    def _body(self, *arguments: Any) -> Any:
        self.calls.append([_copied(part) for part in arguments])
        if isinstance(self._kind.result, t.Result):
            if self._random.random() < 0.3:
                raise Failed(self._value(self._kind.result.err))
            return self._value(self._kind.result.ok)
        return self._value(self._kind.result)

    def _value(self, kind: t.Type | None) -> Any:
        draw = self._random
        match kind:
            case None:
                return None
            case t.Primitive("string"):
                return draw.choice(("", "grün", "x" * 300))
            case t.Primitive("bool"):
                return draw.random() < 0.5
            case t.Primitive("char"):
                return "ü"
            case t.Primitive(name):
                return draw.randrange(1 << (int(name[1:]) - 1))
            case t.Record(fields):
                return tuple(self._value(part) for _, part in fields)
            case t.Tuple(parts):
                return tuple(map(self._value, parts))
            case t.Variant(cases):
                label, part = draw.choice(cases)
                return label, self._value(part)
            case t.Enum(labels):
                return draw.choice(labels)
            case t.Flags(labels):
                return frozenset(label for label in labels if draw.random() < 0.5)
            case t.Listed(t.Primitive("u8")):
                return draw.randbytes(draw.choice((0, 1, 100, 5000)))
            case t.Listed(part):
                return [self._value(part) for _ in range(draw.randrange(4))]
            case t.Option(part):
                return self._value(part) if draw.random() < 0.5 else None
            case t.Result(ok, err):
                return ("ok", self._value(ok)) if draw.random() < 0.5 else ("err", self._value(err))
            case t.Own():
                return "something new"
        raise AssertionError(kind)

    def _core(self, letter: str) -> Any:
        draw = self._random
        if letter in "fd":
            return draw.random()
        if draw.random() < 0.1:
            return draw.choice((_SIZE, _SIZE - 1, _WILD[letter], draw.randrange(_WILD[letter])))
        return draw.choice((0, 1, 2, 3, draw.randrange(1, 65), 8 * draw.randrange(1 << 9)))

    def call(self) -> tuple[str, str]:
        """Call it with core values of all kinds; how that ends."""
        flat, returned = lowered_signature(self._kind)
        layout = values(max(flat, returned, key=len) or "I")
        view = memoryview(bytearray(layout.size))
        given = list(map(self._core, flat))
        for at, (_, part) in enumerate(self._kind.parameters):
            # Where all that comes first has one core value each.
            if isinstance(part, t.Borrow | t.Own) and self._random.random() < 0.9:
                given[at] = self._random.choice(self._numbers(part.resource))
        values(flat).pack_into(view, 0, *given)
        try:
            self._run(values(flat).unpack_from(view), view)
        except Trap as error:
            return "trap", str(error)
        return "done", view.hex()

    def _numbers(self, resource: t.Resource) -> list[int]:
        return [key for key, entry in self.handles.entries.items() if entry.resource is resource]

    def things(self) -> list[tuple[int, object, object, int]]:
        """All its handles."""
        return [
            (number, entry.resource, entry.thing, entry.lent)
            for number, entry in self.handles.entries.items()
        ]


def _copied(value: Any) -> Any:
    if isinstance(value, memoryview):
        return bytes(value)
    return [_copied(part) for part in value] if isinstance(value, list | tuple) else value


def _compiled(state: State, boundary: Boundary, kind: t.Function, body: Body) -> Run:
    run = compiled(state, boundary, kind, body)
    assert run is not None
    return run


@pytest.mark.parametrize("name", _FUNCTIONS)
def test_it_does_what_going_through_the_type_does(name: str) -> None:
    kind = _FUNCTIONS[name]
    state, handles = State(), Handles()
    if compiled(state, Boundary(_Nothing(), handles), kind, print) is None:
        flat = fields([part for _, part in kind.parameters]).flat
        assert len(flat) > MAX_FLAT_PARAMETERS
        return
    ends = set()
    for seed in range(_SEEDS):
        one, other = _World(kind, seed, runner), _World(kind, seed, _compiled)
        end = one.call()
        assert other.call() == end
        ends.add(end[0])
        assert one.calls == other.calls
        assert one.allocated == other.allocated
        assert one.state.may_leave == other.state.may_leave
        assert one.things() == other.things()
        assert one.memory == other.memory
    assert "done" in ends


def test_what_is_rare_is_not_written() -> None:
    kind = _FUNCTIONS["wasi:io/streams [method]input-stream.read"]
    assert compiled(State(), Boundary(None, Handles()), kind, print) is None
    one, other = t.Resource("one"), t.Resource("other")
    # A handle could be lent and given away in one call.
    for lent in (t.Borrow(one), t.Listed(t.Tuple((t.Option(t.Borrow(other)), _U64)))):
        kind = t.Function((("a", lent), ("b", t.Own(one))), None)
        assert compiled(State(), Boundary(_Nothing(), Handles()), kind, print) is None
    kind = t.Function((("a", t.Option(t.Own(other))), ("b", t.Own(one))), _U64)
    assert compiled(State(), Boundary(_Nothing(), Handles()), kind, print) is not None


def test_what_comes_often_is_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counted(state: State, boundary: Boundary, kind: t.Function, body: Body) -> Run | None:
        made.append(compiled(state, boundary, kind, body))
        return made[-1]

    monkeypatch.setattr("garrison.keep.component.compiled.compiled", counted)
    kind = _FUNCTIONS["wasi:random/random get-random-u64"]
    state = State()
    state.begin("the host")
    calls: list[object] = []

    def body(host: object) -> int:
        calls.append(host)
        return len(calls)

    function = lowered(state, Boundary(_Nothing(), Handles()), kind, body)
    room = (c.Size * 2)()
    for count in range(1, 500):
        assert function.callback(0, 0, c.addressof(room), 1) == 0
        assert room[0] == count
    function.close()
    assert calls == ["the host"] * 499
    assert len(made) == 1


class _Nothing:
    def view(self, _address: int, _size: int) -> memoryview:
        raise AssertionError("nobody asks")
