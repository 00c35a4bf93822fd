"""Requests that a component sends: `wasi:http/outgoing-handler`, by the keep's one network.

The rule for the host and port decides, as for any connection: whether it may be, whether it is
TLS, who has to be there. Connecting, with its handshake, goes on in a thread, so that a component
can have several requests under way; all else is done in the component's own calls and waits. Who
answered stands in the response, in the same fields as in requests that come.
"""

from __future__ import annotations

import _thread
import posix
import socket
import time

from garrison.errors import GarrisonError, Malformed, Misuse, Rejected, Unverified
from garrison.formats.endpoint import Endpoint
from garrison.keep.component.callbacks import Failed
from garrison.keep.component.http.exchange import peer_fields
from garrison.keep.component.http.message import End, Head, ResponseReader, request_head
from garrison.keep.component.http.wire import POLLIN, POLLOUT, Source, Wire
from garrison.keep.component.wasi.http_bodies import IncomingBody
from garrison.keep.component.wasi.http_fields import code_of, shown
from garrison.keep.component.wasi.http_messages import IncomingResponse
from garrison.keep.vfs.errno import Errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from garrison.keep.component.host import Host
    from garrison.keep.component.http.message import Headers
    from garrison.keep.component.http.wire import Sink
    from garrison.keep.component.waiting import Pollable
    from garrison.keep.component.wasi.http_fields import Code
    from garrison.keep.component.wasi.http_messages import OutgoingRequest, RequestOptions
    from garrison.keep.vfs.network import Network
    from garrison.keep.vfs.streams import Stream

# What a response's head may take.
_MAX_HEAD = 1 << 17
# Interim responses before the one that counts. Who answers with them alone would otherwise hold a
# component in one call past its time.
_MAX_INTERIM = 32
# As long as a component can wait for a response if it says nothing.
_SECONDS = 600.0
_PORTS = {"HTTP": 80, "HTTPS": 443}
_NANOSECONDS = 1_000_000_000
# RFC 9110, section 9.3: methods whose content has a meaning; without any they say so.
_WITH_CONTENT = frozenset(("POST", "PUT", "PATCH"))


class Connecting:
    """A connection that a thread makes.

    Args:
        network: what makes it.
        target: where to.
    """

    def __init__(self, network: Network, target: str) -> None:
        self.stream: Stream | None = None
        self.failure: BaseException | None = None
        self._network = network
        self._target = target
        self._lock = _thread.allocate_lock()
        self._given_up = False
        self.readable, self._told = posix.pipe()
        try:
            _thread.start_new_thread(self._connect, ())
        except BaseException:
            posix.close(self.readable)
            posix.close(self._told)
            raise

    def _connect(self) -> None:
        try:
            from garrison.keep.net.dial import wait_for  # late: only who connects needs it

            stream = self._network.connect(self._target, wait_for)
        except BaseException as error:  # noqa: BLE001  (told to who waits for it)
            self.failure = error
        else:
            with self._lock:
                unwanted = self._given_up
                if not unwanted:
                    self.stream = stream
            if unwanted:
                stream.close()
        finally:
            posix.close(self._told)

    def done(self) -> bool:
        """Whether it is connected, or has failed."""
        return self.stream is not None or self.failure is not None

    def take(self) -> Stream | None:
        """The connection, if there is one; whoever takes it closes it."""
        stream, self.stream = self.stream, None
        return stream

    def close(self) -> None:
        """Give it up."""
        with self._lock:
            self._given_up = True
            stream, self.stream = self.stream, None
        posix.close(self.readable)
        if stream is not None:
            stream.close()


class Outbound:
    """A request that is sent, and its response: the resource `future-incoming-response`.

    Args:
        host: what it is sent from.
        request: the request; it is the keep's now.
        options: how long things may take.
        target: where to.
        secure: whether it must be TLS.
    """

    def __init__(
        self,
        host: Host,
        network: Network,
        request: OutgoingRequest,
        options: RequestOptions | None,
        target: str,
        *,
        secure: bool,
    ) -> None:
        self._host = host
        self._request = request
        self._secure = secure
        now = time.monotonic()
        connect = None if options is None else options.connect
        first = None if options is None else options.first_byte
        between = None if options is None else options.between_bytes
        self._connect_by = now + (_SECONDS if connect is None else connect / _NANOSECONDS)
        self._first_byte = _SECONDS if first is None else first / _NANOSECONDS
        self._answer_by = 0.0
        self._between = None if between is None else between / _NANOSECONDS
        self._wire: Wire | None = None
        self._sink: Sink | None = request.sink
        self._interim = 0
        self.failure: Code | None = None
        self.head: Head | None = None
        self.taken = False
        self._connecting: Connecting | None = Connecting(network, target)
        host.background.append(self)

    def takes(self, sink: Sink) -> bool:
        """Whether a body goes with this request."""
        return self._sink is sink

    def ready(self) -> bool:
        """Go on as far as that is possible now; whether there is a response, or a failure."""
        if self.failure is None and self.head is None:
            self._advance()
        elif self._wire is not None and self._sink is not None:
            self._sink.busy()
        return self.failure is not None or self.head is not None

    def events(self) -> tuple[int, int] | None:
        """What to wait for."""
        if self._connecting is not None:
            return self._connecting.readable, POLLIN
        if self._wire is None:
            return None
        number, mask = self._wire.reading()
        return number, mask | (POLLOUT if self._wire.waiting else 0)

    def timeout(self) -> float | None:
        """When it is late."""
        end = self._connect_by if self._connecting is not None else self._answer_by
        return max(0.0, end - time.monotonic())

    def settled(self) -> bool:
        """An event may be a step only."""
        return self.ready()

    def drop(self) -> None:
        """End it: what was not answered is given up."""
        if not self.taken:
            # Whoever still waits for it shall not wait for ever.
            self._fail(self.failure or ("connection-terminated", None))

    def response(self) -> Any:
        """The response or the failure, once it is there; None before."""
        if not self.ready():
            return None
        if self.taken:
            return "err", None
        self.taken = True
        if self.head is None or self._wire is None:
            return "ok", ("err", self.failure)
        headers = [*shown(self.head.headers), *peer_fields(self._wire.stream.peer)]
        source = Source(self._wire, self.head)
        body = IncomingBody(source, self._between, self.abandon)
        return "ok", ("ok", IncomingResponse(self.head.status, headers, body))

    def _advance(self) -> None:
        if self._connecting is not None and not self._connected():
            return
        wire = self._wire
        if wire is None:
            return
        if self._sink is not None:
            self._sink.busy()
            if self._sink.failure is not None and not self._sink.done:
                self._fail(("connection-terminated", None))
                return
        else:
            wire.push()
        while self.head is None:
            if wire.reader.events:
                self._event(wire.reader.events.popleft())
                if self.failure is not None:
                    return
            elif wire.failure is not None:
                self._fail(code_of(wire.failure))
                return
            elif wire.refused is not None:
                self._fail(code_of(wire.refused))
                return
            elif wire.ended:
                self._fail(("HTTP-response-incomplete", None))
                return
            elif not wire.receive(self._host.arrivals):
                if time.monotonic() >= self._answer_by:
                    self._fail(("connection-read-timeout", None))
                return

    def _event(self, event: Head | bytes | End) -> None:
        if not isinstance(event, Head):
            # The end of an interim response, which has no body.
            return
        self._interim += 1
        if event.status == 101:
            self._fail(("HTTP-upgrade-failed", None))
        elif event.status < 200 and self._interim > _MAX_INTERIM:
            self._fail(("HTTP-protocol-error", None))
        elif event.status >= 200:
            if self._request.method == "HEAD":
                # Its length is that of another response's body.
                event.length, event.chunked = 0, False
                if self._wire is not None:
                    self._wire.reader.events.append(End([]))
            self.head = event

    def _connected(self) -> bool:
        """Take the connection and send the request; whether there is a connection."""
        connecting = self._connecting
        if connecting is None:
            return True
        if not connecting.done():
            if time.monotonic() >= self._connect_by:
                self._fail(("connection-timeout", None))
            return False
        self._connecting = None
        failure, stream = connecting.failure, connecting.take()
        connecting.close()
        if stream is None:
            self._fail(_code(failure))
            return False
        self._wire = Wire(stream, ResponseReader(_MAX_HEAD))
        if self._secure and not stream.secure:
            # The component asks for TLS, and the rule says that there is none.
            self._fail(("configuration-error", None))
            return False
        self._answer_by = time.monotonic() + self._first_byte
        self._send(self._wire)
        return True

    def _send(self, wire: Wire) -> None:
        request = self._request
        if self._sink is None:
            has_none = request.method in _WITH_CONTENT and request.length() is None
            wire.send(self._head(0 if has_none else None, chunked=False))
            return
        self._sink.attach(
            wire,
            lambda length: self._head(length, chunked=length is None),
            chunks=True,
            silent=False,
        )
        self._sink.busy()

    def _head(self, length: int | None, *, chunked: bool) -> bytes:
        request = self._request
        headers: Headers = [("host", (request.authority or "").encode())]
        headers += request.headers
        named = any(name.lower() == "content-length" for name, _ in request.headers)
        if chunked:
            headers.append(("transfer-encoding", b"chunked"))
        elif length is not None and not named:
            headers.append(("content-length", b"%d" % length))
        headers.append(("connection", b"close"))
        return request_head(request.method, request.target or "/", headers)

    def _fail(self, code: Code) -> None:
        self.failure = code
        self.abandon()

    def abandon(self) -> None:
        """Give the connection back, and no longer go on with it."""
        if self in self._host.background:
            self._host.background.remove(self)
            self._host.opened(None)
        if self._connecting is not None:
            self._connecting.close()
            self._connecting = None
        if self._wire is not None:
            self._wire.close()


def _code(failure: BaseException | None) -> Code:
    """What a failed connection means for HTTP."""
    match failure:
        case Rejected() | Unverified():
            return "TLS-certificate-error", None
        case Malformed():
            return "HTTP-request-URI-invalid", None
        case Misuse():
            return "configuration-error", None
        case OSError():
            if isinstance(failure.__cause__, socket.gaierror):
                return "DNS-error", (None, None)
            text = failure.strerror or ""
            if text.startswith("TLS failed") and "alert" in text:
                return "TLS-alert-received", (None, text.removeprefix("TLS failed: "))
            if text.startswith("TLS failed"):
                return "TLS-protocol-error", None
            return code_of(failure)
        case GarrisonError():
            return "internal-error", "the keep cannot connect now"
    return "internal-error", None


def outgoing_handler_handle(
    host: Host, request: OutgoingRequest, options: RequestOptions | None
) -> Outbound:
    """Send a request."""
    request.check_childless("a request")
    scheme = request.scheme or ("HTTPS", None)
    if scheme[0] not in _PORTS:
        raise Failed(("HTTP-protocol-error", None))
    if request.authority is None:
        raise Failed(("HTTP-request-URI-invalid", None))
    if request.method == "CONNECT":
        raise Failed(("HTTP-request-method-invalid", None))
    target = request.target or "/"
    if target.startswith("?"):
        target = f"/{target}"
    if not target.startswith("/") and (target, request.method) != ("*", "OPTIONS"):
        raise Failed(("HTTP-request-URI-invalid", None))
    request.target = target
    try:
        request.length()
    except Failed:
        raise Failed(("HTTP-request-body-size", None)) from None
    if host.network is None:
        raise Failed(("HTTP-request-denied", None))
    endpoint = Endpoint.parse(request.authority, field="authority")
    where = str(Endpoint(endpoint.host, endpoint.port or _PORTS[scheme[0]]))
    try:
        host.network.check_outgoing(where)
    except Rejected as error:
        from garrison.keep.logs import keep_log  # late: it costs a start 5 ms

        keep_log().warning("refused to the workload: %s: %s", where, error)
        raise Failed(("HTTP-request-denied", None)) from error
    except Malformed:
        raise Failed(("HTTP-request-URI-invalid", None)) from None
    try:
        host.count()
    except Errno:
        raise Failed(("connection-limit-reached", None)) from None
    return Outbound(host, host.network, request, options, where, secure=scheme[0] == "HTTPS")


def future_incoming_response_subscribe(_host: Host, future: Outbound) -> Pollable:
    """Give what to wait for."""
    return Answer(future)


class Answer:
    """A response that is there, as a `Pollable`; dropping it does not end the request."""

    def __init__(self, future: Outbound) -> None:
        self.ready, self.events = future.ready, future.events
        self.timeout, self.settled = future.timeout, future.settled

    def drop(self) -> None:
        """End it."""


def future_incoming_response_get(_host: Host, future: Outbound) -> Any:
    """Give the response, once."""
    return future.response()
