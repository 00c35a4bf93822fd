"""Waiting, for times and descriptors together: what the resource `pollable` stands for."""

from __future__ import annotations

import time

from garrison.keep.vfs.descriptor import SOCK_ACCEPT
from garrison.keep.vfs.streams import POLLIN, POLLOUT, Socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, Protocol

    from garrison.keep.component.host import Host
    from garrison.keep.component.http.wire import Sink
    from garrison.keep.vfs.descriptor import Descriptor

    class Watch(Protocol):
        """What ends a wait: `Interrupts`, or what a request has in its place."""

        def check(self) -> None:
            """Raise if the run is to end."""
            ...

        def wait(self, events: list[tuple[int, int]], seconds: float | None) -> Mapping[int, int]:
            """Wait until one of `events` (descriptor, poll(2) events) happens."""
            ...

    class Pollable(Protocol):
        """Something to wait for."""

        def ready(self) -> bool:
            """Whether it has happened, as far as that is known without the kernel."""
            ...

        def events(self) -> tuple[int, int] | None:
            """A descriptor of the host's and what to wait for there; None if there is no such."""
            ...

        def timeout(self) -> float | None:
            """Seconds after which to ask again without any event."""
            ...

        def settled(self) -> bool:
            """Whether an event means that it has happened, and not only that one has to ask."""
            ...

        def drop(self) -> None:
            """End it."""
            ...

    class Behind(Pollable, Protocol):
        """What goes on while the component waits for something else."""

        def takes(self, sink: Sink) -> bool:
            """Whether it sends what is written to `sink`."""
            ...

    # Its index, what it is, and what the kernel is asked for.
    _Asked = tuple[int, Pollable, tuple[int, int]]


# poll(2), asm-generic/poll.h: what comes without having been asked for.
_POLL_ENDED = 8 | 16 | 32


class Moment:
    """A time to wait for.

    Args:
        when: on the monotonic clock, in nanoseconds; 0 is always over.
    """

    def __init__(self, when: int) -> None:
        self._when = when

    def ready(self) -> bool:
        """Whether it is over."""
        return not self._when or time.monotonic_ns() >= self._when

    def events(self) -> None:
        """None: no descriptor knows."""
        return

    def timeout(self) -> float:
        """How long it is until then."""
        return max(0, self._when - time.monotonic_ns()) / 1e9

    def settled(self) -> bool:
        """There are no events."""
        return False

    def drop(self) -> None:
        """End it."""


class Readiness:
    """A descriptor that can be read or accepted from."""

    def __init__(self, descriptor: Descriptor) -> None:
        self._descriptor = descriptor
        # What never has to be waited for has no events.
        self._always = descriptor.events(write=False) is None
        self._accepts = bool(descriptor.possible & SOCK_ACCEPT)

    def ready(self) -> bool:
        """Whether it can, as far as that is known without the kernel."""
        return self._always or self._descriptor.ready(write=False)

    def events(self) -> tuple[int, int] | None:
        """What to wait for."""
        return self._descriptor.events(write=False)

    def timeout(self) -> float | None:
        """When a listener's next handshake is late."""
        return self._descriptor.timeout()

    def settled(self) -> bool:
        """A listener's event may be a step of a handshake only."""
        return not self._accepts or self._descriptor.ready(write=False)

    def drop(self) -> None:
        """End it."""


class Connection:
    """A connection that can be read: what `Readiness` says of one, by fewer calls.

    Args:
        connection: its descriptor.

    Attributes:
        ready: whether decrypted bytes wait that the kernel knows nothing of.
        number: the number of its socket, -1 once it is closed.
        stream: the connection.
    """

    __slots__ = ("_wants_write", "number", "ready", "stream")

    def __init__(self, connection: Socket) -> None:
        self.stream = stream = connection.stream
        self.ready: Callable[[], bool] = stream.pending
        self.number: Callable[[], int] = stream.fileno
        self._wants_write = stream.wants_write

    def events(self) -> tuple[int, int]:
        """Its socket, which a TLS stream may have to write to before it can read."""
        return self.number(), POLLIN | POLLOUT if self._wants_write() else POLLIN

    def timeout(self) -> None:
        """It is never late."""
        return

    def settled(self) -> bool:
        """An event means that it can be read, if it be the end."""
        return True

    def drop(self) -> None:
        """End it."""


class Waited:
    """What a component waits for, again and again maybe.

    Of connections with nothing decrypted left and nothing to send, the kernel alone is asked, which
    is told of them once. Everything else is asked each time.

    Args:
        wanted: a list that stays as it is; none of it is dropped as long as it comes again.
    """

    def __init__(self, wanted: Sequence[Pollable]) -> None:
        self.wanted = wanted
        self._streams: list[Any] = []
        self._events: list[tuple[int, int]] = []
        self._indices: dict[int, list[int]] = {}
        self._others: list[tuple[int, Pollable]] = []
        self._sorted = False

    def _sort(self) -> None:
        self._sorted = True
        for index, pollable in enumerate(self.wanted):
            number = pollable.number() if isinstance(pollable, Connection) else -1
            if isinstance(pollable, Connection) and number >= 0:
                self._streams.append(pollable.stream)
                self._events.append((number, POLLIN))
                self._indices.setdefault(number, []).append(index)
            else:
                self._others.append((index, pollable))

    def wait(self, host: Host) -> list[int] | None:
        """Wait once; None if it has to be looked at more closely.

        Raises:
            Interrupted: a signal came.
        """
        if not self._sorted:
            self._sort()
        for stream in self._streams:
            if stream.restless:
                return None
        happened, asked, seconds = _look(self._others)
        events = [*self._events, *[events for *_, events in asked]]
        found = host.interrupts.wait(events, 0 if happened else seconds)
        for number, seen in found.items():
            if seen & (POLLIN | _POLL_ENDED):
                happened += self._indices.get(number, ())
        return sorted(happened + _settled(asked, found))


def _look(
    wanted: Iterable[tuple[int, Pollable]],
) -> tuple[list[int], list[_Asked], float | None]:
    """What has happened without asking the kernel, what to ask it for, and for how long."""
    happened: list[int] = []
    asked: list[_Asked] = []
    seconds: float | None = None
    for index, pollable in wanted:
        # First `ready`, after which there may be other events to wait for.
        if pollable.ready():
            happened.append(index)
            continue
        if events := pollable.events():
            if events[0] < 0:
                # It was closed: whoever reads is told so.
                happened.append(index)
                continue
            asked.append((index, pollable, events))
        # Who serves many waits for connections mostly, which are never late.
        if pollable.__class__ is Connection:
            continue
        if (late := pollable.timeout()) is not None:
            seconds = late if seconds is None else min(seconds, late)
    return happened, asked, seconds


def _settled(asked: list[_Asked], found: Mapping[int, int]) -> list[int]:
    """What of `asked` the kernel says has happened."""
    return [
        index
        for index, pollable, (number, mask) in (asked if found else ())
        if index >= 0 and found.get(number, 0) & (mask | _POLL_ENDED) and pollable.settled()
    ]


def wait_for(host: Host, wanted: Sequence[Pollable], *, block: bool = True) -> list[int]:
    """Wait until something of `wanted` happens, and say which have; all at once, if not `block`.

    Raises:
        Interrupted: a signal came.
    """
    while True:
        happened = None
        if block and not host.background:
            if host.waited is not None and host.waited.wanted is wanted:
                happened = host.waited.wait(host)
            else:
                host.waited = Waited(wanted)
        if happened is None:
            happened = _wait(host, wanted, block=block)
        if happened or not block:
            return happened
        # What comes again and again without being what is waited for must not outlast the run.
        host.interrupts.check()


def _wait(host: Host, wanted: Sequence[Pollable], *, block: bool) -> list[int]:
    # First what goes on behind it: that may be what makes it happen, as a connection that is made
    # takes the first of a body and so has room for more.
    behind = _behind(host) if block and host.background else []
    happened, asked, seconds = _look(enumerate(wanted))
    if happened or not block:
        seconds = 0
    else:
        asked += behind
    found = host.interrupts.wait([events for *_, events in asked], seconds)
    return sorted(happened + _settled(asked, found))


def _behind(host: Host) -> list[_Asked]:
    """What goes on while something else is waited for; asked for under no index."""
    return [
        (-1, outbound, events)
        for outbound in list(host.background)
        if not outbound.ready() and (events := outbound.events())
    ]
