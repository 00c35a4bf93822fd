"""HTTP/1.1 messages: bytes in, events out; and the bytes of what is sent. Without input or output.

Source: RFC 9110 and RFC 9112. `httptools` (llhttp, in its strict mode) parses; what is refused
here in addition is what two readers could understand differently: transfer codings other than
`chunked`, any of them in HTTP/1.0, no `Host` or more than one, and methods of other protocols.
How much a message's head, trailers and chunk extensions may take is bounded.
"""

from __future__ import annotations

import re
from collections import deque

import httptools

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    # Field names are in lower case.
    Headers = list[tuple[str, bytes]]

# RFC 9110, section 5.6.2.
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# RFC 9110, section 5.5, as servers take it: no control character but the tab.
VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
# RFC 9112, section 6.3; no body has more bytes than 63 bits tell.
_MAX_DIGITS = 18
# How many messages may come in one piece, of 64 KiB at most, before the first of them is answered.
# The smallest have 26 bytes, and cost us 440.
_MAX_AT_ONCE = 128
# RFC 9110, section 15.2 and 6.4.1: what has no body.
_BODYLESS = (204, 304)
# llhttp also knows those of RTSP and of HTTP/2's preface.
_METHODS = frozenset(
    b"ACL BIND CHECKOUT COPY DELETE GET HEAD LINK LOCK M-SEARCH MERGE MKACTIVITY MKCALENDAR MKCOL"
    b" MOVE NOTIFY OPTIONS PATCH POST PROPFIND PROPPATCH PURGE PUT QUERY REBIND REPORT SEARCH"
    b" SUBSCRIBE TRACE UNBIND UNLINK UNLOCK UNSUBSCRIBE".split()
)
_REASONS = {
    200: "OK", 201: "Created", 202: "Accepted", 204: "No Content", 206: "Partial Content",
    301: "Moved Permanently", 302: "Found", 303: "See Other", 304: "Not Modified",
    307: "Temporary Redirect", 308: "Permanent Redirect", 400: "Bad Request",
    401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    408: "Request Timeout", 409: "Conflict", 411: "Length Required", 413: "Content Too Large",
    414: "URI Too Long", 429: "Too Many Requests", 431: "Request Header Fields Too Large",
    500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway",
    503: "Service Unavailable", 504: "Gateway Timeout", 505: "HTTP Version Not Supported",
}  # fmt: skip


class Refused(Exception):
    """A message is not read on.

    Args:
        status: what a client is told.
        reason: why, for the log.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Head:
    """The head of a message.

    Attributes:
        method: of a request.
        target: of a request, as it was sent.
        status: of a response.
        headers: all fields, in order.
        modern: whether it is of HTTP/1.1.
        keeps: whether another message may follow.
        length: how many bytes the body has, None if only its end tells.
        chunked: whether the body comes in chunks.
    """

    __slots__ = (
        "chunked", "headers", "keeps", "length", "method", "modern", "status", "target",
    )  # fmt: skip

    def __init__(self, headers: Headers) -> None:
        self.method = b""
        self.target = b""
        self.status = 0
        self.headers = headers
        self.modern = True
        self.keeps = True
        self.length: int | None = None
        self.chunked = False

    def values(self, name: str) -> list[bytes]:
        """All values of a field."""
        return [value for found, value in self.headers if found == name]


class End:
    """The end of a message.

    Attributes:
        trailers: what came after the body.
    """

    __slots__ = ("trailers",)

    def __init__(self, trailers: Headers) -> None:
        self.trailers = trailers


class Reader:
    """Reads messages that come one after the other.

    Args:
        limit: how many bytes a head may have, or trailers.

    Attributes:
        events: of each message its `Head`, bytes of its body, and its `End`, to be taken out.
        began: whether a message has begun that has not ended.
    """

    _requests = True

    def __init__(self, limit: int) -> None:
        self.events: deque[Head | bytes | End] = deque()
        self.began = False
        self._limit = limit
        self._parser = self._new()
        self._fields: Headers = []
        self._target = b""
        self._size = 0
        self._silent = 0
        self._in_body = False
        self._at_once = 0
        self._refused: Refused | None = None

    def _new(self) -> Any:
        return httptools.HttpRequestParser(self)

    def feed(self, data: bytes | memoryview) -> None:
        """Read on.

        Raises:
            Refused: it is no such message; nothing more can be read.
        """
        self._silent += len(data)
        self._at_once = 0
        while True:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                # Nobody here changes to another protocol: what follows is the next request.
                data = data[upgrade.args[0] :]
                self._parser = self._new()
            except httptools.HttpParserInvalidMethodError:
                self._refuse(501, "an unknown method")
            except httptools.HttpParserError as error:
                self._refuse(400, str(error))
            else:
                data = b""
            if self._refused is not None:
                raise self._refused
            if self._silent > self._limit:
                # Nothing came of it: a line without an end.
                raise Refused(431, "a head of too many bytes")
            if not data:
                return

    def _refuse(self, status: int, reason: str) -> None:
        # Raised after the parser returned: it would dress up what its callbacks raise.
        if self._refused is None:
            self._refused = Refused(status, reason)

    def on_message_begin(self) -> None:
        """Begin a message."""
        self.began = True
        self._fields = []
        self._target = b""
        self._size = 0
        self._in_body = False

    def on_url(self, part: bytes) -> None:
        """Take a part of the target."""
        self._target += part
        if len(self._target) > self._limit:
            self._refuse(414, "a target of too many bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field, of the head or a trailer."""
        self._size += len(name) + len(value) + 4
        if self._size > self._limit:
            self._refuse(431, "a head of too many bytes")
            return
        self._silent = 0
        self._fields.append((name.decode("ascii").lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        """Finish the head."""
        head = Head(self._fields)
        self._fields = []
        self._size = self._silent = 0
        self._in_body = True
        self._at_once += 1
        if self._at_once > _MAX_AT_ONCE:
            self._refuse(400, "too many messages at once")
        version = self._parser.get_http_version()
        if version not in ("1.1", "1.0"):
            self._refuse(505, "another version of HTTP")
        head.modern = version == "1.1"
        head.keeps = self._parser.should_keep_alive()
        self._check(head)
        self._frame(head)
        self._tell(head)

    def _tell(self, event: Head | bytes | End) -> None:
        # The parser goes on to the end of what it was fed, also where we have refused it.
        if self._refused is None:
            self.events.append(event)

    def _check(self, head: Head) -> None:
        head.method, head.target = self._parser.get_method(), self._target
        if head.method not in _METHODS:
            self._refuse(501, "a method that is not served")
        hosts = len(head.values("host"))
        if hosts > 1 or (head.modern and not hosts):
            self._refuse(400, "not one Host")

    def _frame(self, head: Head) -> None:
        codings = head.values("transfer-encoding")
        lengths = head.values("content-length")
        if codings:
            if not head.modern:
                self._refuse(400, "a transfer coding in HTTP/1.0")
            if len(codings) > 1 or codings[0].lower() != b"chunked":
                self._refuse(501, "a transfer coding other than chunked")
            head.chunked = True
        elif lengths:
            if len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > _MAX_DIGITS:
                self._refuse(400, "not one Content-Length")
            else:
                head.length = int(lengths[0])
        elif self._requests:
            head.length = 0

    def on_chunk_header(self) -> None:
        """Note that something came."""
        self._silent = 0

    def on_body(self, data: bytes) -> None:
        """Take a part of the body."""
        self._silent = 0
        self._tell(data)

    def on_message_complete(self) -> None:
        """Finish the message."""
        self.began = False
        self._silent = 0
        self._tell(End(self._fields))
        self._fields = []


class ResponseReader(Reader):
    """Reads responses.

    A response without a length lasts until the connection ends; the caller sees that.
    """

    _requests = False

    def _new(self) -> Any:
        return httptools.HttpResponseParser(self)

    def _check(self, head: Head) -> None:
        head.status = self._parser.get_status_code()
        if head.status < 200 or head.status in _BODYLESS:
            head.length = 0


def has_no_body(status: int) -> bool:
    """Whether a response of that status never has a body."""
    return status < 200 or status in _BODYLESS


def request_head(method: str, target: str, headers: Iterable[tuple[str, bytes]]) -> bytes:
    """The head of a request."""
    return b"%s %s HTTP/1.1\r\n%s\r\n" % (method.encode(), target.encode(), fields(headers))


def response_head(status: int, headers: Iterable[tuple[str, bytes]]) -> bytes:
    """The head of a response."""
    reason = _REASONS.get(status, "")
    return b"HTTP/1.1 %d %s\r\n%s\r\n" % (status, reason.encode(), fields(headers))


def fields(headers: Iterable[tuple[str, bytes]]) -> bytes:
    """Fields, as they are sent."""
    return b"".join([b"%s: %s\r\n" % (name.encode(), value) for name, value in headers])


def chunk(data: bytes | bytearray) -> bytes:
    """A chunk; not the last, which has no bytes."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def last_chunk(trailers: Iterable[tuple[str, bytes]]) -> bytes:
    """The end of a chunked body."""
    return b"0\r\n%s\r\n" % fields(trailers)
