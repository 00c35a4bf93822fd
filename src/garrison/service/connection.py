"""One connection of a service: HTTP/1.1 by uvicorn's protocol, with a bound on all that waits.

At any time a connection has a deadline of its own, or a request under way, which has one (see
`garrison.service.requests`). Bytes that yield nothing are bounded too: neither a head without
an end, nor endless trailers, nor requests sent ahead fill the memory.

What is refused here has no request that an application could answer: the answer is a problem
document, and the connection ends.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from garrison.errors import GarrisonError, Malformed, Unavailable
from garrison.service import metrics, tracing
from garrison.service.bodies import RECEIVE_INTO, Placing
from garrison.service.known import is_plain
from garrison.service.problem import HeadTooLarge, TooSlow, problem
from garrison.service.prompt import is_plain_post, post_to
from garrison.service.requests import answer_known, answer_promptly

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from starlette.types import Receive, Scope, Send
    from uvicorn import Config
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
    from uvicorn.server import ServerState

    from garrison.service.known import Lookup
    from garrison.service.limits import Limits
    from garrison.service.prompt import Prompt

# How long a body that nobody wants any more is still read, so that its sender sees the answer.
_UNWANTED_SECONDS = 5
# When the service ends, a request may already be on its way on a connection that seems idle.
_LAST_REQUEST_SECONDS = 0.5
_REFUSED = metrics.Counter(
    "garrison_heads_refused", "What was refused before there was a request.", "status"
)
# What is parsed at once of a body, and waits at most for the application to take it.
_BODY_PIECE = 256 * 1024
# Requests that may wait for the answers to those before them, on one connection.
_SENT_AHEAD = 32
# Those of which the parser reads the heads of others too.
_VERSIONS = frozenset({"1.0", "1.1"})
# RFC 9110, section 7.2, and RFC 3986, section 3.2.2: a name, an address, or nothing, and a port.
_HOST = re.compile(rb"(\[[0-9A-Fa-fv:.%]{2,60}\]|[0-9A-Za-z._~!$&'()*+,;=%-]{0,255})(:[0-9]{0,5})?")


class _Refused(Exception):
    """A head is refused, for what `Connection` knows."""


class _Joined:
    """What an answer writes to: its head goes out with the beginning of its body.

    Most answers are short, and half of their price is that of sending: one record of TLS, and
    one call of the kernel's, are enough for each. Where no body follows at once, the head goes.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = None
        self._began = False

    @property
    def waits(self) -> bool:
        """Whether there is a head that was not sent yet."""
        return self._head is not None

    def write(self, data: bytes) -> None:
        if self._began:
            self._send(data)
            return
        self._began, self._head = True, data
        self._loop.call_soon(self._send)

    def _send(self, data: bytes = b"") -> None:
        if self._head is not None:
            data, self._head = self._head + data, None
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self._send()
        self._transport.close()


async def _turn_away(scope: Scope, receive: Receive, send: Send) -> None:
    """The application of a connection beyond the limits."""
    error = Unavailable("too many connections", hint="try again later, with fewer at once")
    response = problem(error)
    response.headers["Connection"] = "close"
    await response(scope, receive, send)


class Connection(HttpToolsProtocol):
    """A connection, from the end of its handshake on."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        limits: Limits,
        on_lost: Callable[[], None],
        *,
        known: Lookup | None = None,
        prompt: Prompt | None = None,
        is_beyond: bool = False,
    ) -> None:
        """Make the protocol of one connection.

        Args:
            config: of all connections.
            server_state: of all connections.
            app_state: what each request has in its state.
            limits: the bounds.
            on_lost: called when the connection has ended.
            known: finds answers that are known already.
            prompt: answers requests at once.
            is_beyond: there are too many already: refuse its first request.
        """
        super().__init__(config, server_state, app_state)
        if is_beyond:
            self.app = _turn_away
        self._limits = limits
        self._on_lost = on_lost
        self._known = known
        self._prompt = prompt
        # The current request was answered without a cycle.
        self._was_known = False
        # The body, so far, of a request that may be answered at once; and whether one of the same
        # piece has been.
        self._held: bytearray | None = None
        self._was_prompt = False
        self._joined: _Joined | None = None
        # Of a body that is longer than a piece.
        self._placing: Placing | None = None
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._draining = False
        # Why what is received is refused, if not for being no HTTP.
        self._reason: GarrisonError | None = None
        # Of the current head and its trailers; and what the parser holds without a word about it.
        self._head_bytes = 0
        self._head_fields = 0
        self._pending_bytes = 0
        self._in_head = False
        self._body_began = False
        # Requests whose answers have not ended; the base knows the last of them alone.
        self._unanswered: list[RequestResponseCycle] = []

    # The transport's side.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base
        """Take the connection, and its client's certificate into the state of each request."""
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        certificate = None if tls is None else tls.getpeercert(binary_form=True)
        # The base copies this into every request. It must not be the dictionary that all
        # connections share.
        self.app_state = {
            **self.app_state,
            "client_certificate": certificate,
            "abort": transport.abort,
        }
        self._set_deadline(self._limits.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give its place to another; what is still answered is answered to nobody."""
        self._cancel_deadline()
        self._stop_timer()
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)
        self._on_lost()

    def data_received(self, data: bytes | memoryview) -> None:
        """Parse `data`; what the parser keeps of it is bounded."""
        size = _BODY_PIECE if self._body_began else self._limits.head_bytes
        for start in range(0, len(data), size):
            if self.transport.is_closing():
                return
            piece = data[start : start + size]
            self._pending_bytes += len(piece)
            self._was_prompt = False
            super().data_received(piece)  # type: ignore[arg-type]  # the parser takes both
            if self._held is not None:
                # The rest is still on its way, however long that takes.
                self._take_the_long_way({})
            if self._pending_bytes > self._limits.head_bytes and not self.transport.is_closing():
                self._reason = self._too_large()
                self.send_400_response("")

    def shutdown(self) -> None:
        """Answer what is under way, or may be on its way, and no more."""
        self._draining = True
        if self._is_answering:
            self.cycle.keep_alive = False
        else:
            self._set_deadline(_LAST_REQUEST_SECONDS)

    # The parser's side.

    def on_message_begin(self) -> None:
        """Start the clock of a request's head."""
        self._head_bytes = self._head_fields = self._pending_bytes = 0
        self._in_head = True
        self._body_began = self._was_known = False
        self._placing = None
        self._set_deadline(self._limits.head_seconds)
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Count the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header, or a trailer."""
        self._head_fields += 1
        # Four for the colon, the blank and the end of the line.
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Hand the request over; from here on it has its own clock."""
        self._pending_bytes = 0
        self._check_head()
        self._in_head = False
        self._cancel_deadline()
        if self._known is not None and self._answer_known(self._known):
            self._was_known = True
            return
        if self._prompt is not None and self._may_be_prompt():
            self._held = bytearray()
            return
        self._begin_cycle()

    def _begin_cycle(self) -> None:
        """Hand the request, whose head is complete, to the application."""
        length = next((int(value) for name, value in self.headers if name == b"content-length"), 0)
        if length > _BODY_PIECE:
            self._placing = Placing(self, length)
            self.scope["state"][RECEIVE_INTO] = self._placing.into
        super().on_headers_complete()
        self._joined = _Joined(self.transport, self.loop)
        self.cycle.transport = self._joined  # type: ignore[assignment]  # what a cycle uses of one
        waiting = [cycle for cycle in self._unanswered if not cycle.response_complete]
        self._unanswered = [*waiting, self.cycle]
        if self._draining or self.parser.should_upgrade():
            # What follows may be of the other protocol, or lost: it is answered as neither.
            self.cycle.keep_alive = False
        if len(self.pipeline) > _SENT_AHEAD:
            self.transport.abort()

    def on_body(self, body: bytes) -> None:
        """Hand over a piece of the body."""
        self._pending_bytes = 0
        self._body_began = True
        if self._held is not None:
            self._held += body
            return
        if self._placing is not None:
            self._placing.count(len(body))
            if self._placing.is_on:
                # It is where the application wants it.
                return
        if self.cycle.response_complete:
            return
        # The base pauses a body at a quarter of this, and takes four times as many turns for it.
        # And it copies each piece into an array and out of it again: where nothing waits, the
        # piece itself is what the application gets.
        if self.cycle.body:
            self.cycle.body += body
        else:
            self.cycle.body = body  # type: ignore[assignment]  # of it `bytes` and `len` are asked
        if len(self.cycle.body) > _BODY_PIECE:
            self.flow.pause_reading()
        self.cycle.message_event.set()

    def on_message_complete(self) -> None:
        """End a request; one that is answered already leaves the connection idle."""
        self._pending_bytes = 0
        if self._held is not None and self._prompt is not None:
            self._answer_promptly(self._prompt, bytes(self._held))
        if self._was_known:
            self._set_deadline(self._limits.idle_seconds)
            return
        super().on_message_complete()
        self.cycle.more_body = False
        if self.cycle.response_complete:
            self._set_deadline(self._limits.idle_seconds)

    def on_response_complete(self) -> None:
        """Wait for the next request, unless this one still sends what nobody wants."""
        answered = self.cycle
        super().on_response_complete()
        # The base's own clock is stopped by any byte, and by one alone.
        self._unset_keepalive_if_required()
        if self.transport.is_closing() or not self.cycle.response_complete:
            return
        if not answered.more_body:
            self._set_deadline(
                _LAST_REQUEST_SECONDS if self._draining else self._limits.idle_seconds
            )
        elif self.expect_100_continue and not self._body_began:
            # It never was asked for the body: whether it comes is the client's choice.
            self.transport.close()
        else:
            self._set_deadline(_UNWANTED_SECONDS)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the base's words are its own
        """Answer what cannot be parsed, and end the connection."""
        self._refuse(self._reason or Malformed("not HTTP/1.1", field="request"))

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: the request is answered as any other, and that is logged."""

    @property
    def _is_answering(self) -> bool:
        return (
            self.cycle is not None  # type: ignore[redundant-expr]  # it is, before the first request
            and not self.cycle.response_complete
        )

    @property
    def _has_its_turn(self) -> bool:
        """Whether an answer may be sent now, without a cycle."""
        return not (
            # Answers go in the order of the requests, and to clients that read them.
            self._is_answering
            or (self._joined is not None and self._joined.waits)
            or self.flow.write_paused
            or self._draining
            or tracing.is_on()
        )

    def _answer_known(self, known: Lookup) -> bool:
        """Answer the request whose head is complete, if its answer is known; tell whether it is."""
        if (
            self.parser.get_method() != b"GET"
            or self.parser.get_http_version() != "1.1"
            or not is_plain(self.headers)
            or not self._has_its_turn
        ):
            return False
        found = known(self.url)
        if found is None:
            return False
        head = b"".join(b"%b: %b\r\n" % field for field in self.server_state.default_headers)
        client = self.client[0] if self.client else None
        authenticated = self.app_state["client_certificate"] is not None
        self.transport.write(answer_known(found, head, client, authenticated=authenticated))
        return True

    def _may_be_prompt(self) -> bool:
        """Tell whether the request whose head is complete may be answered without a cycle."""
        return (
            self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and is_plain_post(self.headers)
            and not self._was_prompt
            and self._has_its_turn
        )

    def _answer_promptly(self, prompt: Prompt, body: bytes) -> None:
        """Answer the request that is complete, or have it take the long way."""
        request = post_to(self.url, self.headers, self.scope["state"])
        if request is None:
            self._take_the_long_way({})
            return
        client = self.client[0] if self.client else None
        default_head = self.server_state.default_headers
        answer = answer_promptly(prompt, request, body, default_head, client)
        if not isinstance(answer, bytes):
            self._take_the_long_way(answer)
            return
        self._held = None
        self._was_known = self._was_prompt = True
        if not self.transport.is_closing():
            self.transport.write(answer)

    def _take_the_long_way(self, state: Mapping[str, object]) -> None:
        """Hand the request that was held to the application, with more in its state."""
        held, self._held = self._held, None
        if self.transport.is_closing():
            return
        self.scope["state"].update(state)
        self._begin_cycle()
        if held:
            self.on_body(bytes(held))

    def _refuse(self, error: GarrisonError) -> None:
        """Answer what is no request with `error`, and end the connection."""
        if self._is_answering:
            waiting = [cycle for cycle in self._unanswered if not cycle.response_complete]
            if waiting != [self.cycle] or self.cycle.response_started:
                # An answer within an answer would be taken for part of it.
                self.transport.abort()
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._cancel_deadline()
        answer = problem(error)
        _REFUSED.add(str(answer.status_code))
        head = [*self.server_state.default_headers, *answer.raw_headers, (b"connection", b"close")]
        lines = (b"%s: %s\r\n" % (name, value) for name, value in head)
        text = b"".join((STATUS_LINE[answer.status_code], *lines, b"\r\n", bytes(answer.body)))
        self.transport.write(text)
        self.transport.close()

    def _count(self, size: int) -> None:
        self._pending_bytes = 0
        self._head_bytes += size
        if (
            self._head_bytes > self._limits.head_bytes
            or self._head_fields > self._limits.head_fields
        ):
            self._reason = self._too_large()
            raise _Refused

    def _too_large(self) -> HeadTooLarge:
        return HeadTooLarge(
            "too long",
            field="request head",
            expected=f"at most {self._limits.head_bytes} bytes"
            f" and {self._limits.head_fields} fields",
        )

    def _check_head(self) -> None:
        """Refuse what another reader on the way may have taken for another request."""
        version = self.parser.get_http_version()
        hosts = [value for name, value in self.headers if name == b"host"]
        if version not in _VERSIONS:
            self._reason = Malformed(
                "not supported", field="HTTP version", found=version, expected="1.1 or 1.0"
            )
        elif len(hosts) > 1 or (not hosts and version == "1.1"):
            # RFC 9112, section 3.2: it must be refused, and so must the next.
            self._reason = Malformed("not there once", field="Host", found=f"{len(hosts)} times")
        elif hosts and _HOST.fullmatch(hosts[0]) is None:
            self._reason = Malformed("not a host", field="Host", found=repr(hosts[0][:80])[1:])
        if self._reason is not None:
            raise _Refused

    def _set_deadline(self, seconds: float) -> None:
        self._deadline = self.loop.time() + seconds
        # A timer that goes off too early is set again then: most deadlines are moved before.
        if self._timer is None or self._timer.when() > self._deadline:
            self._stop_timer()
            self._timer = self.loop.call_later(seconds, self._look_at_deadline)

    def _cancel_deadline(self) -> None:
        self._deadline = None

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_at_deadline(self) -> None:
        self._timer = None
        if self._deadline is None:
            return
        left = self._deadline - self.loop.time()
        # The loop's clock counts milliseconds.
        if left > 0.001:
            self._timer = self.loop.call_later(left, self._look_at_deadline)
        else:
            self._late()

    def _late(self) -> None:
        """End the connection; who has begun to ask is told why."""
        if not self._pending_bytes and not self._in_head:
            self.transport.abort()
            return
        self._refuse(
            TooSlow(
                "did not arrive in time",
                field="request head",
                expected=f"all of it within {self._limits.head_seconds:g} s",
            )
        )
