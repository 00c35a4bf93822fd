"""Random calls of `wasi:http`, and of the streams and polls that belong to it (`call_fuzzer`).

    python -m garrison.testing.http_fuzzer --seconds 600

Requests come over a pair of sockets, and answers to what is sent likewise.
"""

from __future__ import annotations

import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

from garrison.keep.component.http.client import outgoing_handler_handle
from garrison.keep.component.http.exchange import Exchange, peer_fields
from garrison.keep.component.http.message import Head, Reader
from garrison.keep.component.http.wire import Wire, scratch
from garrison.keep.component.waiting import wait_for
from garrison.keep.component.wasi.http_fields import Fields, HttpError
from garrison.keep.component.wasi.http_messages import OutgoingRequest, ResponseOutparam
from garrison.keep.net.policy import ANONYMOUS
from garrison.keep.net.stream import Stream
from garrison.testing import call_fuzzer
from garrison.testing.call_fuzzer import Asked, Calls, Choices, WaitedError

if TYPE_CHECKING:
    from collections import Counter

_INTERFACES = ("wasi:http/types", "wasi:http/outgoing-handler", "wasi:io/error", "wasi:io/poll",
               "wasi:io/streams")  # fmt: skip
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
_MAX_HEAD = 1 << 16


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


class Run(Calls):
    """One instance of what calls.

    Args:
        choices: what it does.
        counts: how often each function came to which end; added to.
    """

    def __init__(self, choices: Choices, counts: Counter[tuple[str, str]]) -> None:
        self._network = _Network(choices)
        super().__init__(choices, counts, self._network, _ASKED, _TEXTS)
        self._exchange = self._request()
        if choices.below(2):
            self._send()
        if not choices.below(4):
            self._give("wasi:io/error", "error", HttpError(("connection-refused", None)))

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

    def _end(self) -> None:
        host: Any = self._state.host
        # What a call that trapped had been given goes with the instance.
        for outbound in list(host.background):
            outbound.abandon()
        self._exchange.close()
        self._network.close()


_ASKED = Asked(_INTERFACES)


def run(data: bytes, counts: Counter[tuple[str, str]] | None = None) -> None:
    """Do what the bytes say, with a new instance after each trap.

    Raises:
        Exception: what should not come out of a call did.
    """
    call_fuzzer.run(data, Run, counts)


if __name__ == "__main__":
    sys.exit(call_fuzzer.main(run, len(_ASKED.functions)))
