"""Random calls of what components import, with wild handles: what the fuzzers of it share.

What would call is not a component but bytes: each run reads from them which function is called,
and with what. A handle is one of the right kind most of the time, else of another, one that was
given away, or none; addresses, lengths, cases and what the allocator returns are wild now and then.
The functions are reached as a component reaches them, by `callbacks.lowered`: canonical ABI,
handles and all.

A run fails if anything but a trap, or the end of a wait, comes out of a call; if a handle stays
lent; or if what is left cannot be given back.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from garrison.errors import GarrisonError
from garrison.keep.component import interfaces
from garrison.keep.component import types as t
from garrison.keep.component.abi import codec, fields
from garrison.keep.component.boundary import Boundary
from garrison.keep.component.callbacks import State, lowered_signature, runner
from garrison.keep.component.compiled import compiled
from garrison.keep.component.handles import Handles
from garrison.keep.component.host import Host
from garrison.keep.engine.failures import Trap
from garrison.keep.engine.store import values
from garrison.keep.vfs.streams import Null

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIZE = 1 << 17
# Where texts, lists and results are; the allocator has what comes after.
TEXTS_AT, LISTS_AT, _RESULTS_AT, _FREE_AT = 0x100, 0x2000, 0x4000, 0x6000
_NUMBERS = (0, 1, 2, 5, 16, 200, 404, 599, 600, 4096, 4097, 65535, 65536, 1 << 31, (1 << 32) - 1,
            1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)  # fmt: skip
_BYTES_PER_RUN = 1 << 10


class WaitedError(GarrisonError):
    """A call would wait for what nobody will do: the end of a request's time."""


class Interrupts:
    """Asks the kernel, and never waits."""

    def check(self) -> None:
        """Go on."""

    def wait(self, events: list[tuple[int, int]], seconds: float | None) -> dict[int, int]:
        """Ask once; what would wait ends."""
        from select import poll

        poller = poll()
        for descriptor, mask in events:
            poller.register(descriptor, mask)
        # A connection is made in a thread, which needs a moment.
        found = dict(poller.poll(0 if seconds == 0 else 5))
        if not found and seconds != 0:
            raise WaitedError("it waits")
        return found


class Choices:
    """What is done next, out of bytes; `over` when they are at their end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def over(self) -> bool:
        """Whether there are no more."""
        return self._at >= len(self._data)

    def below(self, limit: int) -> int:
        """A number below `limit`, which is at most 65536."""
        found = int.from_bytes(self._data[self._at : self._at + 2], "little")
        self._at += 2
        return found % limit

    def rarely(self, often: int = 24) -> bool:
        """True once in so many times; not at the end of the bytes."""
        return self.below(often) == often - 1

    def one(self, things: Any) -> Any:
        """One of them."""
        return things[self.below(len(things))]


class _Memory:
    """Linear memory."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        self.data = bytearray(SIZE)
        self._all = memoryview(self.data)
        self.texts: list[tuple[int, int]] = []
        at = TEXTS_AT
        for text in texts:
            self.data[at : at + len(text)] = text
            self.texts.append((at, len(text)))
            at += len(text) + 1

    def view(self, address: int, size: int) -> memoryview:
        """As `LinearMemory` does."""
        if address + size > SIZE:
            raise Trap("beyond the memory")
        return self._all[address : address + size]


class _Handles(Handles):
    """The table, looked into."""

    def lent(self) -> bool:
        """Whether one is lent."""
        return any(entry.lent for entry in self.entries.values())

    def numbers(self, resource: t.Resource) -> list[int]:
        """Those of a kind."""
        return [key for key, entry in self.entries.items() if entry.resource is resource]


class Asked:
    """What is called.

    Args:
        names: the interfaces.

    Attributes:
        functions: those of them, each with its interface and name.
        resources: theirs, to be dropped.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.functions = [
            (interface, name, kind)
            for interface in interfaces.known()
            if interface.name in names
            for name, kind in interface.functions.items()
            if len(fields([part for _, part in kind.parameters]).flat) <= 16
        ]
        self.resources = [
            kind
            for name in names
            for label, kind in interfaces.find(f"{name}@0.2.0").types.items()
            if isinstance(kind, t.Resource) and kind.name == f"{name} {label}"
        ]


class Calls:
    """One instance of what calls.

    Args:
        choices: what it does.
        counts: how often each function came to which end; added to.
        network: what it reaches.
        asked: what it calls.
        texts: what it gives for texts and lists of bytes.
    """

    def __init__(
        self,
        choices: Choices,
        counts: Counter[tuple[str, str]],
        network: Any,
        asked: Asked,
        texts: Sequence[bytes],
    ) -> None:
        self._choices = choices
        self._counts = counts
        self._asked = asked
        self._memory = _Memory(texts)
        self._free = _FREE_AT
        self._state = State()
        self.handles = _Handles()
        watch = Interrupts()
        self._state.begin(Host([], {}, [Null(), Null(), Null()], [], network, watch, 64))
        self._often = choices.below(2)
        self._calls = {
            (interface.name, name): self._runner(interface.name, name, kind)
            for interface, name, kind in asked.functions
        }

    def _runner(self, interface: str, name: str, kind: t.Function) -> Callable[..., None]:
        """What calls a function of ours: in half of the runs, what is made when it came often."""
        boundary = Boundary(self._memory, self.handles, self._allocate)
        body = interfaces.function(interface, name)
        made = compiled(self._state, boundary, kind, body) if self._often else None
        return made or runner(self._state, boundary, kind, body)

    def _give(self, interface: str, name: str, thing: object) -> None:
        resource = interfaces.find(f"{interface}@0.2.0").types[name]
        if not isinstance(resource, t.Resource):
            raise TypeError(f"{name} is no resource")
        self.handles.add(resource, thing)

    def go(self) -> None:
        """Call until the bytes are at their end, or a call traps."""
        try:
            while not self._choices.over:
                if not self._step():
                    return
                if self.handles.lent():
                    raise AssertionError("a handle stays lent")
        finally:
            self.handles.close()
            self._end()

    def _end(self) -> None:
        """Give back what no handle stood for."""

    def _step(self) -> bool:
        """Call one function, or drop one handle; whether the instance goes on."""
        if self._choices.rarely(6):
            return self._drop()
        interface, name, kind = self._function()
        flat = [value for _, part in kind.parameters for value in self._flat(part)]
        letters, returned = lowered_signature(kind)
        if len(letters) > len(flat):
            flat.append(self._place())
        bits = {"I": 32, "Q": 64}
        given = tuple(
            value & ((1 << bits[letter]) - 1) for value, letter in zip(flat, letters, strict=True)
        )
        view = memoryview(bytearray(max(8, values(returned).size)))
        return self._call(
            f"{interface.name} {name}", lambda: self._calls[interface.name, name](given, view)
        )

    def _function(self) -> tuple[t.Interface, str, t.Function]:
        """One that can be called, mostly: all that it wants is there."""
        found: tuple[t.Interface, str, t.Function] = self._choices.one(self._asked.functions)
        while not all(
            self.handles.numbers(part.resource)
            for _, part in found[2].parameters
            if isinstance(part, t.Own | t.Borrow)
        ):
            if self._choices.over or self._choices.rarely(256):
                break
            found = self._choices.one(self._asked.functions)
        return found

    def _drop(self) -> bool:
        resource = self._choices.one(self._asked.resources)
        if not self.handles.numbers(resource) and not self._choices.rarely(64):
            return True
        number = self._handle(resource)

        def drop() -> None:
            thing = self.handles.take(number, resource)
            resource.drop(thing)

        return self._call(f"drop {resource.name}", drop)

    def _call(self, name: str, call: Callable[[], None]) -> bool:
        try:
            call()
        except Trap:
            self._counts[name, "trap"] += 1
            return False
        except WaitedError:
            self._counts[name, "wait"] += 1
            return False
        self._counts[name, "done"] += 1
        return True

    def _allocate(self, size: int, align: int) -> int:
        if self._choices.rarely(200):
            return self._wild()
        self._free = (self._free + align - 1) // align * align
        if self._free + size > SIZE:
            self._free = _FREE_AT
        at, self._free = self._free, self._free + size
        return at

    def _wild(self) -> int:
        return int(self._choices.one((0, 1, 3, SIZE - 2, SIZE, (1 << 32) - 1, 1 << 31)))

    def _place(self) -> int:
        return self._wild() if self._choices.rarely(64) else _RESULTS_AT

    def _handle(self, resource: t.Resource) -> int:
        """One of the right kind, mostly; else any that there is or was, or none."""
        choices = self._choices
        if choices.rarely(96):
            return int(choices.one((0, 1, 2, 3, 7, 1 << 16, (1 << 32) - 1)))
        right = self.handles.numbers(resource)
        if not right or choices.rarely(96):
            return choices.below(len(self.handles) + 3)
        return int(choices.one(right))

    def _flat(self, kind: t.Type) -> list[int]:
        """Core values of a parameter."""
        choices = self._choices
        match kind:
            case t.Own(resource) | t.Borrow(resource):
                return [self._handle(resource)]
            case t.Primitive("string") | t.Listed(t.Primitive("u8")):
                if choices.rarely(160):
                    return [self._wild(), int(choices.one(_NUMBERS)) & 0xFFFFFFFF]
                return list(choices.one(self._memory.texts))
            case t.Listed(part):
                return self._list(part)
            case t.Record(parts):
                return [value for _, inner in parts for value in self._flat(inner)]
            case t.Tuple(inners):
                return [value for inner in inners for value in self._flat(inner)]
            case t.Enum(labels):
                return [choices.below(len(labels) + choices.rarely(16))]
            case t.Variant(cases):
                return self._case(kind, [part for _, part in cases])
            case t.Option(part):
                return self._case(kind, [None, part])
            case t.Result(ok, err):
                return self._case(kind, [ok, err])
        return [int(choices.one(_NUMBERS)) for _ in codec(kind).flat]

    def _case(self, kind: t.Type, parts: list[t.Type | None]) -> list[int]:
        number = self._choices.below(len(parts))
        part = parts[number]
        if isinstance(part, t.Own) and not self.handles.numbers(part.resource):
            # One of the others, so that this is not nearly always a trap.
            number = (number + 1) % len(parts)
            part = parts[number]
        out = [number if not self._choices.rarely(160) else len(parts)]
        if part is not None:
            out += self._flat(part)
        return out + [0] * (len(codec(kind).flat) - len(out))

    def _list(self, part: t.Type) -> list[int]:
        """A list in memory, of words that `_flat` gives."""
        if self._choices.rarely(160):
            return [self._wild(), int(self._choices.one(_NUMBERS)) & 0xFFFFFFFF]
        count = 0 if self._choices.rarely(64) else 1 + self._choices.below(3)
        at = LISTS_AT
        for _ in range(count):
            for word in self._flat(part):
                self._memory.data[at : at + 4] = (word & 0xFFFFFFFF).to_bytes(4, "little")
                at += 4
        return [LISTS_AT, count]


def run(
    data: bytes,
    made: Callable[[Choices, Counter[tuple[str, str]]], Calls],
    counts: Counter[tuple[str, str]] | None = None,
) -> None:
    """Do what the bytes say, with a new instance after each trap.

    Raises:
        Exception: what should not come out of a call did.
    """
    choices = Choices(data)
    counted: Counter[tuple[str, str]] = Counter() if counts is None else counts
    while not choices.over:
        made(choices, counted).go()


def main(once: Callable[[bytes, Counter[tuple[str, str]]], None], functions: int) -> int:
    """Fuzz for a while, and tell how often each function came to which end.

    Args:
        once: does what some bytes say, and counts.
        functions: how many there are to call.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    source = random.Random(asked.seed)  # noqa: S311  (to be repeated)
    counts: Counter[tuple[str, str]] = Counter()
    end = time.monotonic() + asked.seconds
    runs = 0
    while time.monotonic() < end:
        data = source.randbytes(_BYTES_PER_RUN)
        # What hangs is told where, and ends.
        faulthandler.dump_traceback_later(120, exit=True)
        try:
            once(data, counts)
        except BaseException:
            print(f"seed {asked.seed}, run {runs}: {data.hex()}", file=sys.stderr)
            raise
        runs += 1
    faulthandler.cancel_dump_traceback_later()
    for name in sorted({name for name, _ in counts}):
        ends = {end: counts[name, end] for end in ("done", "trap", "wait")}
        print(f"{name:60} {ends['done']:>10,} {ends['trap']:>10,} {ends['wait']:>8,}")
    print(f"{sum(counts.values()):,} calls in {runs:,} runs, of {functions} functions")
    return 0
