"""Random calls of `wasi:http`, and of the streams and polls that belong to it, with wild handles.

    python -m garrison.testing.http_fuzzer --seconds 600

What would call is not a component but bytes: each run reads from them which function is called,
and with what. A handle is one of the right kind most of the time, else of another, one that was
given away, or none; addresses, lengths, cases and what the allocator returns are wild now and then.
The functions are reached as a component reaches them, by `callbacks.lowered`: canonical ABI,
handles and all. Requests come over a pair of sockets, and answers to what is sent likewise.

A run fails if anything but a trap, or the end of a wait, comes out of a call; if a handle stays
lent; or if what is left cannot be given back.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import socket
import sys
import threading
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
from garrison.keep.component.http.client import outgoing_handler_handle
from garrison.keep.component.http.exchange import Exchange, peer_fields
from garrison.keep.component.http.message import Head, Reader
from garrison.keep.component.http.wire import Wire, scratch
from garrison.keep.component.waiting import wait_for
from garrison.keep.component.wasi.http_fields import Fields, HttpError
from garrison.keep.component.wasi.http_messages import OutgoingRequest, ResponseOutparam
from garrison.keep.engine.failures import Trap
from garrison.keep.engine.store import values
from garrison.keep.net.policy import ANONYMOUS
from garrison.keep.net.stream import Stream
from garrison.keep.vfs.streams import Null

if TYPE_CHECKING:
    from collections.abc import Callable

_INTERFACES = ("wasi:http/types", "wasi:http/outgoing-handler", "wasi:io/error", "wasi:io/poll",
               "wasi:io/streams")  # fmt: skip
_SIZE = 1 << 17
# Where texts, lists and results are; the allocator has what comes after.
_TEXTS_AT, _LISTS_AT, _RESULTS_AT, _FREE_AT = 0x100, 0x2000, 0x4000, 0x6000
_TEXTS = (
    b"", b"a", b"content-length", b"5", b"hello", b"x-field", b"Host", b"connection", b"a\nb",
    b"garrison-peer-kind", b"localhost:80", b"localhost", b"::1", b"/a?b", b"?", b"*", b"GET",
    b"CONNECT", b"\xff\xfe", b"99999999999999999999", b"http", b"x" * 300, b"\xc3\xa4",
)  # fmt: skip
_CHUNKED = b"POST /d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
_REQUESTS = (
    b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX: y\r\n\r\nhello",
    b"POST /c HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhel",
    _CHUNKED + b"3\r\nabc\r\n0\r\nt: v\r\n\r\n",
    _CHUNKED + b"3\r\nabcZ",
    b"HEAD /f HTTP/1.0\r\n\r\n",
)
_ANSWERS = (
    b"",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\n\r\nopen end",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nt: v\r\n\r\n",
    b"HTTP/1.1 101 Up\r\n\r\n",
    b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 204 N\r\n\r\n",
    b"not HTTP",
)
_NUMBERS = (0, 1, 2, 5, 16, 200, 404, 599, 600, 4096, 4097, 65535, 65536, 1 << 31, (1 << 32) - 1,
            1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)  # fmt: skip
_MAX_HEAD = 1 << 16
_BYTES_PER_RUN = 1 << 10


class WaitedError(GarrisonError):
    """A call would wait for what nobody will do: the end of a request's time."""


class _Interrupts:
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


class _Network:
    """Answers what is sent."""

    def __init__(self, choices: Choices) -> None:
        self._answer = choices.one(_ANSWERS)
        self._refuses = choices.rarely(8)
        self._others: list[socket.socket] = []
        self._lock = threading.Lock()
        self._closed = False

    def check_outgoing(self, target: str) -> None:
        """Allow all."""

    def connect(self, target: str, _wait: object = None) -> Stream:
        """Connect, or fail."""
        with self._lock:
            if self._refuses or self._closed:
                raise ConnectionRefusedError(111, "refused", target)
            ours = self.pair(self._answer, ends=self._answer.endswith(b"end"))
        return Stream(ours, ANONYMOUS)

    def pair(self, said: bytes, *, ends: bool) -> socket.socket:
        """One end of a connection; the other has said something, and perhaps ended."""
        ours, theirs = socket.socketpair()
        ours.settimeout(0)
        theirs.sendall(said)
        if ends:
            theirs.shutdown(socket.SHUT_WR)
        self._others.append(theirs)
        return ours

    def close(self) -> None:
        """Connect to nobody from now on; it is in other threads that connections are made."""
        with self._lock:
            self._closed = True
            while self._others:
                self._others.pop().close()


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

    def __init__(self) -> None:
        self.data = bytearray(_SIZE)
        self._all = memoryview(self.data)
        self.texts: list[tuple[int, int]] = []
        at = _TEXTS_AT
        for text in _TEXTS:
            self.data[at : at + len(text)] = text
            self.texts.append((at, len(text)))
            at += len(text) + 1

    def view(self, address: int, size: int) -> memoryview:
        """As `LinearMemory` does."""
        if address + size > _SIZE:
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


class Run:
    """One instance of what calls.

    Args:
        choices: what it does.
        counts: how often each function came to which end; added to.
    """

    def __init__(self, choices: Choices, counts: Counter[tuple[str, str]]) -> None:
        self._choices = choices
        self._counts = counts
        self._memory = _Memory()
        self._free = _FREE_AT
        self._state = State()
        self.handles = _Handles()
        self._network = _Network(choices)
        network: Any = self._network
        watch = _Interrupts()
        self._state.begin(Host([], {}, [Null(), Null(), Null()], [], network, watch, 64))
        self._often = choices.below(2)
        self._calls = {
            (interface.name, name): self._runner(interface.name, name, kind)
            for interface, name, kind in _FUNCTIONS
        }
        self._exchange = self._request()
        if choices.below(2):
            self._send()
        if not choices.below(4):
            self._give("wasi:io/error", "error", HttpError(("connection-refused", None)))

    def _runner(self, interface: str, name: str, kind: t.Function) -> Callable[..., None]:
        """What calls a function of ours: in half of the runs, what is made when it came often."""
        boundary = Boundary(self._memory, self.handles, self._allocate)
        body = interfaces.function(interface, name)
        made = compiled(self._state, boundary, kind, body) if self._often else None
        return made or runner(self._state, boundary, kind, body)

    def _request(self) -> Wire:
        """A request that came, and where its response goes: what a component is called with."""
        said = self._choices.one(_REQUESTS)
        ours = self._network.pair(said, ends=self._choices.rarely(4))
        wire = Wire(Stream(ours, ANONYMOUS), Reader(_MAX_HEAD))
        room = scratch()
        while not wire.reader.events:
            wire.receive(room)
        head = wire.reader.events.popleft()
        if not isinstance(head, Head):
            raise TypeError(f"a request begins with {head!r}")
        exchange = Exchange(wire, head, peer_fields(ANONYMOUS), last=False)
        self._give("wasi:http/types", "incoming-request", exchange.request())
        self._give("wasi:http/types", "response-outparam", ResponseOutparam(exchange))
        return wire

    def _send(self) -> None:
        """A request that went, and what its answer comes by, or that answer."""
        request = OutgoingRequest(Fields([]))
        request.scheme, request.authority = ("HTTP", None), "localhost"
        host: Any = self._state.host
        future = outgoing_handler_handle(host, request, None)
        if self._choices.below(4):
            try:
                wait_for(host, [future])
            except WaitedError:
                self._counts["the answer", "wait"] += 1
            else:
                kind, value = future.response()[1]
                if kind == "ok":
                    self._give("wasi:http/types", "incoming-response", value)
        self._give("wasi:http/types", "future-incoming-response", future)

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
            host: Any = self._state.host
            # What a call that trapped had been given goes with the instance.
            for outbound in list(host.background):
                outbound.abandon()
            self._exchange.close()
            self._network.close()

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
        found: tuple[t.Interface, str, t.Function] = self._choices.one(_FUNCTIONS)
        while not all(
            self.handles.numbers(part.resource)
            for _, part in found[2].parameters
            if isinstance(part, t.Own | t.Borrow)
        ):
            if self._choices.over or self._choices.rarely(256):
                break
            found = self._choices.one(_FUNCTIONS)
        return found

    def _drop(self) -> bool:
        resource = self._choices.one(_RESOURCES)
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
        if self._free + size > _SIZE:
            self._free = _FREE_AT
        at, self._free = self._free, self._free + size
        return at

    def _wild(self) -> int:
        return int(self._choices.one((0, 1, 3, _SIZE - 2, _SIZE, (1 << 32) - 1, 1 << 31)))

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
        at = _LISTS_AT
        for _ in range(count):
            for word in self._flat(part):
                self._memory.data[at : at + 4] = (word & 0xFFFFFFFF).to_bytes(4, "little")
                at += 4
        return [_LISTS_AT, count]


def _functions() -> list[tuple[t.Interface, str, t.Function]]:
    return [
        (interface, name, kind)
        for interface in interfaces.known()
        if interface.name in _INTERFACES
        for name, kind in interface.functions.items()
        if len(fields([part for _, part in kind.parameters]).flat) <= 16
    ]


_FUNCTIONS = _functions()
_RESOURCES = [
    kind
    for name in _INTERFACES
    for label, kind in interfaces.find(f"{name}@0.2.0").types.items()
    if isinstance(kind, t.Resource) and kind.name == f"{name} {label}"
]


def run(data: bytes, counts: Counter[tuple[str, str]] | None = None) -> None:
    """Do what the bytes say, with a new instance after each trap.

    Raises:
        Exception: what should not come out of a call did.
    """
    choices = Choices(data)
    counted: Counter[tuple[str, str]] = Counter() if counts is None else counts
    while not choices.over:
        Run(choices, counted).go()


def main() -> int:
    """Fuzz for a while, and tell how often each function came to which end."""
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
            run(data, counts)
        except BaseException:
            print(f"seed {asked.seed}, run {runs}: {data.hex()}", file=sys.stderr)
            raise
        runs += 1
    faulthandler.cancel_dump_traceback_later()
    for name in sorted({name for name, _ in counts}):
        ends = {end: counts[name, end] for end in ("done", "trap", "wait")}
        print(f"{name:60} {ends['done']:>10,} {ends['trap']:>10,} {ends['wait']:>8,}")
    print(f"{sum(counts.values()):,} calls in {runs:,} runs, of {len(_FUNCTIONS)} functions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
