"""One request and its response, between a client's connection and the component that answers.

Rules: what the keep knows of the peer stands in the request as fields whose names begin with
`garrison-`; whatever a client sends under such names is taken away first. What belongs to the
connection (`Host`, `Connection` and the like) is the keep's business and not shown.
"""

from __future__ import annotations

import time

from garrison.keep.component.callbacks import Failed
from garrison.keep.component.http.message import Refused, has_no_body, response_head
from garrison.keep.component.http.wire import Sink, Source, Wire
from garrison.keep.component.wasi.http_fields import shown
from garrison.keep.component.wasi.http_messages import IncomingRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from garrison.keep.component.http.message import Head, Headers
    from garrison.keep.component.wasi.http_fields import Code
    from garrison.keep.component.wasi.http_messages import OutgoingResponse

# The fields of a peer, by the names that `/net/peer` has for them.
_PEER = (
    "kind", "workload", "digest", "policy", "tee", "measurement", "tcb_status", "spiffe_id",
    "serial", "expires",
)  # fmt: skip
_STATUS = {
    "HTTP-request-denied": 403, "HTTP-request-length-required": 411,
    "HTTP-request-body-size": 413, "HTTP-request-method-invalid": 405,
    "HTTP-request-URI-invalid": 400, "HTTP-request-URI-too-long": 414,
    "HTTP-request-header-section-size": 431, "HTTP-request-header-size": 431,
    "HTTP-request-trailer-section-size": 400, "HTTP-request-trailer-size": 400,
    "DNS-timeout": 504, "connection-timeout": 504, "connection-read-timeout": 504,
    "connection-write-timeout": 504, "HTTP-response-timeout": 504, "internal-error": 500,
    "configuration-error": 500,
}  # fmt: skip
_BAD_GATEWAY = 502
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = (
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
)  # fmt: skip
_dated = (0, b"")


def peer_fields(peer: Mapping[str, Any]) -> Headers:
    """What a component is told of who is at the other end."""
    return [
        (f"garrison-peer-{name.replace('_', '-')}", _ascii(str(peer[name])))
        for name in _PEER
        if peer.get(name) is not None
    ]


def _ascii(text: str) -> bytes:
    # What a certificate says was read strictly; this only makes sure that it is one line.
    return text.encode("ascii", "backslashreplace").replace(b"\r", b" ").replace(b"\n", b" ")


class Exchange:
    """A request that is being answered.

    Args:
        wire: the client's connection.
        head: the request's head.
        peer: the fields that say who the client is.
        last: whether the connection is to end after this.
    """

    def __init__(self, wire: Wire, head: Head, peer: Headers, *, last: bool) -> None:
        self.wire = wire
        self.head = head
        self.last = last or not head.keeps
        self.source = Source(wire, head, self._continue)
        self._expects = head.modern and any(
            value.lower() == b"100-continue" for value in head.values("expect")
        )
        self._sink: Sink | None = None
        self._peer = peer

    def request(self) -> IncomingRequest:
        """The request, as a component is given it.

        Raises:
            Refused: it is for nobody, or for two.
        """
        head = self.head
        target, authority = _target(head)
        return IncomingRequest(
            head.method.decode("ascii"),
            target,
            "HTTPS" if self.wire.stream.secure else "HTTP",
            authority,
            [*shown(head.headers), *self._peer],
            self.source,
        )

    @property
    def answered(self) -> bool:
        """Whether there is a response."""
        return self._sink is not None

    def _continue(self) -> None:
        if self._expects and (self._sink is None or not self._sink.sent):
            self._expects = False
            self.wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def respond(self, response: OutgoingResponse) -> None:
        """Send a response, as its body comes."""
        sink = response.sink
        if sink is None:
            if not self._is_whole(response):
                # The client would take the next response for the body of this one.
                self.refuse(500)
                return
            sink = Sink(None)
            sink.done = True
        self._attach(sink, response.status, response.headers)

    def _is_whole(self, response: OutgoingResponse) -> bool:
        """Whether a response whose body was never asked for may go without any."""
        if has_no_body(response.status):
            return True
        try:
            length = response.length()
        except Failed:
            return False
        return not length or self.head.method == b"HEAD"

    def fail(self, code: Code) -> None:
        """Send an error."""
        self.refuse(_STATUS.get(code[0], _BAD_GATEWAY))

    def refuse(self, status: int) -> None:
        """Send a status, and nothing else."""
        sink = Sink(None)
        sink.done = True
        self._attach(sink, status, [])

    def _attach(self, sink: Sink, status: int, headers: Headers) -> None:
        self._sink = sink
        sink.lazy = True
        silent = self.head.method == b"HEAD" or has_no_body(status)

        def head(length: int | None) -> bytes:
            return response_head(status, self._framed(status, headers, length))

        sink.attach(self.wire, head, chunks=self.head.modern, silent=silent)

    def _framed(self, status: int, headers: Headers, length: int | None) -> Headers:
        """The fields of a response that is sent now."""
        names = {name.lower() for name, _ in headers}
        out = list(headers)
        if has_no_body(status):
            out = [(name, value) for name, value in out if name.lower() != "content-length"]
        elif "content-length" not in names:
            if length is not None:
                out.append(("content-length", b"%d" % length))
            elif self.head.modern:
                out.append(("transfer-encoding", b"chunked"))
            else:
                self.last = True
        if self._expects and not self.source.ended:
            # Whether the client sends its body now is not known.
            self.last = True
        if "date" not in names:
            out.append(("date", _date()))
        if self.last:
            out.append(("connection", b"close"))
        elif not self.head.modern:
            out.append(("connection", b"keep-alive"))
        return out

    @property
    def asked(self) -> bool:
        """Whether the component wants what it wrote to have gone."""
        return self._sink is not None and self._sink.asked

    def flush(self) -> None:
        """Send what there is, before something is waited for."""
        if self._sink is not None:
            self._sink.busy()

    def finish(self) -> bool:
        """The component has ended; whether the response is whole, or can still become it."""
        if self._sink is None:
            self.refuse(500)
            return True
        if not self._sink.done or self._sink.failure is not None:
            return False
        self._sink.flow()
        return self.wire.failure is None


def _target(head: Head) -> tuple[str, str | None]:
    """The path with its query, and the authority, of a request.

    Raises:
        Refused: they contradict each other, or are none.
    """
    target = head.target.decode("latin-1")
    hosts = head.values("host")
    host = hosts[0].decode("latin-1") if hosts else None
    if host is not None and not _is_authority(host):
        raise Refused(400, "a Host that is none")
    if target.startswith("/") or (target == "*" and head.method == b"OPTIONS"):
        return target, host
    scheme, separator, rest = target.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        raise Refused(400, "a target that is neither a path nor a URL")
    end = min((rest.index(mark) for mark in "/?" if mark in rest), default=len(rest))
    authority, path = rest[:end], rest[end:]
    if not authority or not _is_authority(authority) or (host or authority) != authority:
        # RFC 9112, section 3.2.2, has the target win; who of two is meant shall not be guessed.
        raise Refused(400, "a URL for another host than Host says")
    return path if path.startswith("/") else f"/{path}", authority


def _is_authority(text: str) -> bool:
    """Whether it can be a host and port: no user, no path, nothing of what URLs are cut at."""
    return text.isascii() and text.isprintable() and not set(text) & set(' /?#@\\,"<>^`{|}')


def _date() -> bytes:
    """RFC 9110, section 5.6.7."""
    global _dated  # noqa: PLW0603  (one moment for all: seconds are few, requests are many)
    now = int(time.time())
    if _dated[0] != now:
        t = time.gmtime(now)
        text = (
            f"{_DAYS[t.tm_wday]}, {t.tm_mday:02} {_MONTHS[t.tm_mon - 1]} {t.tm_year}"
            f" {t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} GMT"
        )
        _dated = (now, text.encode())
    return _dated[1]
