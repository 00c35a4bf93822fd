"""Of wasi:http: bodies, as streams, and their trailers."""

from __future__ import annotations

import time

from garrison.keep.component.callbacks import Failed
from garrison.keep.component.http.message import Refused
from garrison.keep.component.wasi.http_fields import Fields, Parent, code_of, failed, shown
from garrison.keep.component.wasi.streams import InputStream, OutputStream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from garrison.keep.component.host import Host
    from garrison.keep.component.http.wire import Sink, Source
    from garrison.keep.component.waiting import Pollable
    from garrison.keep.component.wasi.http_fields import Code
    from garrison.keep.vfs.descriptor import Room

_CLOSED = ("closed", None)


class IncomingBody(Parent):
    """The body of a request or response that came.

    Args:
        source: where it comes from.
        patience: how many seconds may be between its bytes, None for ever.
        ended: called when nobody reads it any more.
    """

    def __init__(
        self, source: Source, patience: float | None = None, ended: Callable[[], None] | None = None
    ) -> None:
        super().__init__()
        self.source = source
        self.patience = patience
        self.taken = False
        self.ended = ended

    def drop(self) -> None:
        """End it."""
        self.check_childless("a body")
        if self.ended is not None:
            self.ended()


class BodyInput(InputStream):
    """Reads a body that came."""

    def __init__(self, host: Host, body: IncomingBody) -> None:
        self._host = host
        self._body = body
        self._source = body.source
        self.since = time.monotonic()
        body.children += 1

    def read(self, room: Room, size: int) -> int:
        """Read into `room`, as any stream."""
        if not size and not self._source.ended:
            return 0
        count = self._source.read(room.all[:size], self._host.arrivals)
        if count:
            if self._body.patience is not None:
                self.since = time.monotonic()
            return count
        if self._source.trailers is not None:
            raise Failed(_CLOSED)
        failure = self._source.failure
        if failure is None and self.late():
            failure = self._source.failure = TimeoutError("the body does not go on")
        if failure is not None:
            raise failed(body_code(failure))
        return 0

    def late(self) -> bool:
        """Whether the next bytes should be here."""
        patience = self._body.patience
        return patience is not None and time.monotonic() >= self.since + patience

    def pollable(self) -> Pollable:
        """What to wait for before reading."""
        return Arrival(self._host, self._source, self._body.patience)

    def drop(self) -> None:
        """End it."""
        self._body.children -= 1


def body_code(failure: BaseException) -> Code:
    """Why the rest of a body does not come."""
    if isinstance(failure, Refused):
        return "HTTP-protocol-error", None
    if isinstance(failure, ConnectionResetError):
        return "HTTP-response-incomplete", None
    return code_of(failure)


class Arrival:
    """A body of which there is more, or that has ended.

    Args:
        host: whose memory is read into.
        source: the body.
        patience: after how many seconds to ask again all the same.
        all_of_it: whether only the end counts.
    """

    def __init__(
        self, host: Host, source: Source, patience: float | None, *, all_of_it: bool = False
    ) -> None:
        self._host = host
        self._source = source
        self._late = None if patience is None else time.monotonic() + patience
        self._all = all_of_it

    def ready(self) -> bool:
        """Whether it is so."""
        if self._late is not None and time.monotonic() >= self._late:
            return True
        if self._all:
            self._source.discard(self._host.arrivals, _MOST)
            return self._source.ended
        return self._source.ready(self._host.arrivals)

    def events(self) -> tuple[int, int] | None:
        """What to wait for."""
        return self._source.wire.reading()

    def timeout(self) -> float | None:
        """When it is late."""
        return None if self._late is None else max(0.0, self._late - time.monotonic())

    def settled(self) -> bool:
        """An event may be a part of a record, or of a chunk's head."""
        return self.ready()

    def drop(self) -> None:
        """End it."""


# What is left out at once of a body that nobody wants.
_MOST = 1 << 20


def incoming_body_stream(host: Host, body: IncomingBody) -> BodyInput:
    """Give its contents, once."""
    if body.taken:
        raise Failed(None)
    body.taken = True
    return BodyInput(host, body)


class FutureTrailers(Parent):
    """What comes after a body."""

    def __init__(self, body: IncomingBody) -> None:
        super().__init__()
        self.body = body
        self.told = False

    def drop(self) -> None:
        """End it."""
        self.check_childless("the trailers' future")
        if self.body.ended is not None:
            self.body.ended()


def incoming_body_finish(_host: Host, body: IncomingBody) -> FutureTrailers:
    """Leave the rest of the contents out, and give what comes after."""
    body.check_childless("a body")
    return FutureTrailers(body)


def future_trailers_subscribe(host: Host, future: FutureTrailers) -> Pollable:
    """Give what to wait for."""
    return Arrival(host, future.body.source, future.body.patience, all_of_it=True)


def future_trailers_get(host: Host, future: FutureTrailers) -> Any:
    """Give the trailers, once."""
    source = future.body.source
    if not source.ended:
        source.discard(host.arrivals, _MOST)
        if not source.ended:
            return None
    if future.told:
        return "err", None
    future.told = True
    if source.failure is not None:
        return "ok", ("err", body_code(source.failure))
    trailers = shown(source.trailers or [])
    return "ok", ("ok", Fields(trailers, future) if trailers else None)


class OutgoingBody(Parent):
    """The body of a request or response that goes.

    Args:
        sink: where it goes.
        wrong_size: the error of one that has another size than was said.
    """

    def __init__(self, sink: Sink, wrong_size: str) -> None:
        super().__init__()
        self.sink = sink
        self.wrong_size = wrong_size
        self.taken = False

    def drop(self) -> None:
        """End it; what was not finished is broken."""
        self.check_childless("a body")
        if not self.sink.done:
            self.sink.abort()


class BodyOutput(OutputStream):
    """Writes a body that goes."""

    def __init__(self, host: Host, body: OutgoingBody) -> None:
        self._host = host
        self._body = body
        self._sink = body.sink
        self._permitted = 0
        body.children += 1

    def permit(self) -> int:
        """How much can be written now, as any stream."""
        self.check_open()
        self._permitted = self._sink.room()
        self.check_open()
        return self._permitted

    def put(self, data: memoryview | bytes) -> None:
        """Write all."""
        self.check_open()
        if self._sink.too_long(len(data)):
            self._sink.taken += len(data)
            self._sink.abort()
            raise failed((self._body.wrong_size, self._sink.taken))
        if self._sink.wire is None:
            self._wait_for_room(len(data))
        self._sink.take(data)

    def _wait_for_room(self, size: int) -> None:
        """Before it is known where it goes no more is kept than `permit` says: wait for that.

        Raises:
            Failed: nobody was told yet to take it, and waiting would be for ever.
        """
        while self._sink.wire is None and self._sink.room() < size:
            taker = next((each for each in self._host.background if each.takes(self._sink)), None)
            if taker is None:
                self._sink.abort()
                raise failed(("internal-error", "a body is written before it is sent"))
            if not taker.ready():
                events = taker.events()
                self._host.interrupts.wait([events] if events else [], taker.timeout())
            self._host.interrupts.check()

    def push(self) -> bool:
        """Go on with what is kept; whether there still is something to wait for."""
        self.check_open()
        busy = self._sink.busy()
        self.check_open()
        return busy

    def check_open(self) -> None:
        """Refuse to go on after the end."""
        failure = self._sink.broken()
        if isinstance(failure, BrokenPipeError | ConnectionResetError):
            raise Failed(_CLOSED)
        if failure is not None:
            raise failed(code_of(failure))

    def ready(self) -> bool:
        """Whether something can be written."""
        return self._sink.room() > 0 or self._sink.broken() is not None

    def events(self) -> tuple[int, int] | None:
        """What to wait for; nothing before it is known where it goes."""
        wire = self._sink.wire
        return None if wire is None else wire.writing()

    def flush(self, end: float | None = None) -> None:  # noqa: ARG002  (only who drops it hurries)
        """Wait until all has gone."""
        self.check_open()
        if not self._sink.urge():
            self.check_open()
            return
        while self.push():
            events = self.events()
            self._host.interrupts.wait([events] if events else [], None)

    def drop(self) -> None:
        """End it; the body goes on."""
        self._body.children -= 1


def outgoing_body_write(host: Host, body: OutgoingBody) -> BodyOutput:
    """Give what to write it with, once."""
    if body.taken:
        raise Failed(None)
    body.taken = True
    return BodyOutput(host, body)


def outgoing_body_finish(_host: Host, body: OutgoingBody, trailers: Fields | None) -> None:
    """End it."""
    # First of all: they are given away, whatever comes of it.
    entries = [] if trailers is None else trailers.taken()
    body.sink.held = None if trailers is None else trailers.held
    body.check_childless("a body")
    if body.sink.too_long(0):
        raise Failed((body.wrong_size, body.sink.taken))
    failure = body.sink.broken()
    if failure is not None:
        raise Failed(code_of(failure))
    if not body.sink.finish(entries):
        size = body.sink.taken
        body.sink.abort()
        raise Failed((body.wrong_size, size))
