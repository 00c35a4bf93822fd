"""The body of a request, read into places of its reader's own.

As ASGI has it, a body comes in pieces, each of which was copied some times on its way, into memory
that the kernel had to give for it. What is long is better decrypted where its reader wants it:
while somebody waits for a place to be filled, `Placing` stands in for the connection's protocol.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from starlette.requests import ClientDisconnect

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from uvicorn.protocols.http.flow_control import FlowControl
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

# What a request's state calls `Placing.into`, or a wrapper of it.
RECEIVE_INTO = "receive_into"


class Body:
    """The body of a request. Nobody else may read of it."""

    def __init__(self, request: Request) -> None:
        """Prepare; nothing is received yet."""
        self._receive = request.receive
        state = request.scope.get("state", {})
        self._receive_into: Callable[[memoryview], Awaitable[int]] | None = state.get(RECEIVE_INTO)
        self._piece = memoryview(b"")
        self._began, self._ended = False, False

    async def into(self, place: memoryview) -> int:
        """Fill `place`, but for the end of the body.

        Returns:
            How many bytes came: fewer than there is room for only where the body has ended.

        Raises:
            ClientDisconnect: the client went away.
            TooSlow: it paused for too long.
        """
        done = 0
        while done < len(place):
            if self._piece:
                count = min(len(self._piece), len(place) - done)
                place[done : done + count] = self._piece[:count]
                self._piece = self._piece[count:]
            elif self._ended:
                break
            else:
                count = await self._receive_more(place[done:])
            done += count
        return done

    async def _receive_more(self, place: memoryview) -> int:
        """Receive into `place`, and tell how much; or another piece."""
        # What came together with the head is a piece; and its client may wait to be asked for it.
        if self._began and self._receive_into is not None:
            count = await self._receive_into(place)
            if count:
                return count
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self._began = True
        self._piece = memoryview(message.get("body", b""))
        self._ended = not message.get("more_body", False)
        return 0


class Parsing(Protocol):
    """A connection, as far as a body in places has to do with it."""

    transport: asyncio.Transport
    flow: FlowControl
    loop: asyncio.AbstractEventLoop
    cycle: RequestResponseCycle

    def data_received(self, data: memoryview) -> None:
        """Parse what came."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""

    def eof_received(self) -> None:
        """The client sends no more."""

    def pause_writing(self) -> None:
        """The client does not read."""

    def resume_writing(self) -> None:
        """The client reads again."""


class Placing(asyncio.BufferedProtocol):
    """What receives a body of known length, while somebody waits for a place to be filled.

    The connection parses what came as ever, and hears of everything else. It tells with `count`
    what of the body it has parsed.
    """

    def __init__(self, connection: Parsing, length: int) -> None:
        """Prepare for a body of `length` bytes, of which nothing was parsed yet."""
        self._connection = connection
        self._left = length
        self._place, self._done = memoryview(b""), 0
        self._progress: Callable[[], None] = lambda: None
        self._filled: asyncio.Future[None] | None = None

    @property
    def is_on(self) -> bool:
        """Whether what comes goes into a place."""
        return self._filled is not None

    def count(self, size: int) -> None:
        """Take note that `size` bytes of the body were parsed."""
        self._left -= size

    async def into(self, place: memoryview, progress: Callable[[], None]) -> int:
        """Fill `place`, but for the end of the body, or of the connection.

        Args:
            place: it is not used any more when this ends.
            progress: called whenever something came.

        Returns:
            How many bytes came; 0 if no more do, or if a piece came before that was not taken.
        """
        connection = self._connection
        transport, flow = connection.transport, connection.flow
        place = place[: self._left]
        if not place or connection.cycle.body or transport.is_closing():
            return 0
        self._place, self._done, self._progress = place, 0, progress
        self._filled = connection.loop.create_future()
        transport.set_protocol(self)
        flow.resume_reading()
        try:
            await self._filled
        finally:
            done = self._done
            self._place, self._filled = memoryview(b""), None
            flow.pause_reading()
            # One that has ended has no use for another.
            if not transport.is_closing():
                transport.set_protocol(connection)  # type: ignore[arg-type]  # it is one
            if not self._left:
                # What comes now is another request, or the connection's end.
                flow.resume_reading()
        return done

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Where the next bytes go."""
        return self._place[self._done :]

    def buffer_updated(self, nbytes: int) -> None:
        """Parse what came."""
        came = self._place[self._done : self._done + nbytes]
        self._done += nbytes
        self._connection.data_received(came)
        self._progress()
        if self._done == len(self._place):
            self._connection.flow.pause_reading()
            self._end()

    def _end(self) -> None:
        if self._filled is not None and not self._filled.done():
            self._filled.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits learns it of the connection."""
        self._connection.connection_lost(exc)
        self._end()

    def eof_received(self) -> None:
        """Tell the connection."""
        self._connection.eof_received()

    def pause_writing(self) -> None:
        """Tell the connection."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Tell the connection."""
        self._connection.resume_writing()
