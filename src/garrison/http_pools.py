"""HTTP for all that asks a server: urllib3, with an end to how long an answer may take.

urllib3's own timeouts are for each read from the socket. A server that sends a byte a minute, an
interim answer or a trailer after the other, or a length of a chunk without end, is never late by
them, and holds whoever asked it for ever. Here the head of an answer has a time for all of it, and
so has a body whose reader says so (`until`, `read_body`). What is late is a timeout of urllib3's.
"""

from __future__ import annotations

import http.client
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import urllib3

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from urllib3 import BaseHTTPResponse

# From when the request was sent until the head of its answer is there.
HEAD_SECONDS = 60.0
# For the whole body of a document of few kilobytes.
DOCUMENT_SECONDS = 30.0


class TooSlow(urllib3.exceptions.HTTPError):
    """A body did not come in the time that its reader gave it."""


class _Response(http.client.HTTPResponse):
    """One whose head comes in time."""

    head_seconds: float | None = None

    def __init__(self, sock: socket.socket, *arguments: Any, **named: Any) -> None:
        super().__init__(sock, *arguments, **named)
        self._socket = sock

    def begin(self) -> None:
        seconds = HEAD_SECONDS if self.head_seconds is None else self.head_seconds
        with self.until(time.monotonic() + seconds):
            super().begin()

    @contextmanager
    def until(self, late: float) -> Iterator[None]:
        """Have no read from the socket end after `late`."""
        if self.fp is None:
            # All of it came.
            yield
            return
        raw: Any = self.fp.raw  # what `makefile` buffers
        read, sock = raw.readinto, self._socket

        def readinto(place: memoryview) -> int | None:
            left = late - time.monotonic()
            if left <= 0:
                raise TimeoutError("the answer comes too slowly")
            before, count = sock.gettimeout(), None
            if before is not None and before <= left:
                count = read(place)
            else:
                sock.settimeout(left)
                try:
                    count = read(place)
                finally:
                    sock.settimeout(before)
            return cast("int | None", count)

        raw.readinto = readinto
        try:
            yield
        finally:
            del raw.readinto


class _Remembering:
    """A connection that remembers its last answer as the standard library has it."""

    below: _Response
    head_seconds: float | None = None
    host: str
    port: int | None

    def __str__(self) -> str:
        # As errors name it to people.
        return f"{self.host}:{self.port}"

    def response_class(self, *arguments: Any, **named: Any) -> http.client.HTTPResponse:
        self.below = _Response.__new__(_Response)
        self.below.head_seconds = self.head_seconds
        self.below.__init__(*arguments, **named)  # type: ignore[misc]
        return self.below


def pools(
    *, head_seconds: float | None = None, insecure_http: bool = False, **options: Any
) -> urllib3.PoolManager:
    """A pool manager, made with these options of it, for HTTPS.

    Args:
        head_seconds: what the head of an answer may take; None: `HEAD_SECONDS`.
        insecure_http: whether plain HTTP is spoken too.
        options: of `urllib3.PoolManager`.
    """
    manager = urllib3.PoolManager(**options)
    given = {"head_seconds": head_seconds}
    secured = type("_TlsConnection", (_Remembering, urllib3.connection.HTTPSConnection), given)
    schemes: dict[str, type[urllib3.HTTPConnectionPool]] = {
        "https": type("_TlsPool", (urllib3.HTTPSConnectionPool,), {"ConnectionCls": secured})
    }
    if insecure_http:
        plain = type("_Connection", (_Remembering, urllib3.connection.HTTPConnection), given)
        schemes["http"] = type("_Pool", (urllib3.HTTPConnectionPool,), {"ConnectionCls": plain})
    manager.pool_classes_by_scheme = schemes
    return manager


def below(response: BaseHTTPResponse) -> _Response:
    """The standard library's answer below one that came by `pools`, of which nothing was read."""
    return cast("_Remembering", response.connection).below


@contextmanager
def until(response: BaseHTTPResponse, late: float) -> Iterator[None]:
    """Have no read of the body of a `response`, which came by `pools`, end after `late`.

    Args:
        response: to a request with `preload_content=False`, of which nothing was read.
        late: by the monotonic clock, in seconds.

    Raises:
        TooSlow: one would.
    """
    try:
        with below(response).until(late):
            yield
    except urllib3.exceptions.ReadTimeoutError as error:
        if time.monotonic() < late:
            raise
        raise TooSlow("the answer comes too slowly") from error


def read_body(response: BaseHTTPResponse, limit: int, seconds: float | None = None) -> bytes:
    """Read the body of a `response` that came by `pools`: all, or what shows that it is too long.

    Args:
        response: to a request with `preload_content=False`.
        limit: in bytes; of a longer one, one more is returned.
        seconds: what all of it may take; None: `DOCUMENT_SECONDS`.

    Raises:
        urllib3.exceptions.HTTPError: it broke off, or was too slow (`TooSlow`).
    """
    body = bytearray()
    late = time.monotonic() + (DOCUMENT_SECONDS if seconds is None else seconds)
    with until(response, late):
        while len(body) <= limit and (piece := response.read1(limit + 1 - len(body))):
            body += piece
    return bytes(body)
