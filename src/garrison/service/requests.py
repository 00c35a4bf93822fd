"""What every request of a service has: an id, a line in the log, a clock, and a bounded body.

Each request carries in its state what an application cannot find out: `client_certificate`
(DER of the client's verified certificate, or None) and `request_id`. The access log has neither
headers nor query strings: tokens travel in both.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from garrison.errors import Unavailable
from garrison.service import log, metrics, tracing
from garrison.service.bodies import RECEIVE_INTO
from garrison.service.limits import DEFAULTS, Limits
from garrison.service.problem import TooLarge, TooSlow, problem

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from garrison.service.known import Known
    from garrison.service.prompt import Prompt

# Where the server too tells of defects in an application.
_LOGGER = logging.getLogger("uvicorn.error")
# What is logged for a client that went away before its answer began.
_GONE = 499
_METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"}
_OTHER = "other"

_REQUESTS = metrics.Counter(
    "garrison_requests", "Requests that have ended.", "route", "method", "status"
)
_SECONDS = metrics.Histogram(
    "garrison_request_seconds", "Time from head to end of answer.", "route", "method"
)
_IN_FLIGHT = metrics.Gauge("garrison_requests_in_flight", "Requests under way.")
_RECEIVED = metrics.Counter("garrison_received_bytes", "Bytes of requests' bodies.", "route")
_SENT = metrics.Counter("garrison_sent_bytes", "Bytes of answers' bodies.", "route")


def new_request_id() -> str:
    """An id that no other request has."""
    return secrets.token_hex(8)


@dataclass(slots=True)
class _Exchange:
    """How far a request has come."""

    status: int = _GONE
    is_answered: bool = False
    body_arrived: bool = False
    received: int = 0
    sent: int = 0


class Requests:
    """ASGI middleware around an application."""

    def __init__(
        self, app: ASGIApp, limits: Limits = DEFAULTS, paths: Collection[str] = ()
    ) -> None:
        """Wrap `app`.

        Args:
            app: the application.
            limits: the bounds.
            paths: those that are routes as they stand; of others the application tells the
                route in the request's state, `route`.
        """
        self._app = app
        self._limits = limits
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        # Whoever was offered it before may have told its id.
        request_id = state["request_id"] = state.get("request_id") or new_request_id()
        state.setdefault("client_certificate", None)
        exchange = _Exchange(body_arrived=not _has_body(scope))
        started = time.monotonic()
        level = logging.INFO
        _IN_FLIGHT.add(1)
        try:
            with tracing.request(scope["headers"]) as tell:
                try:
                    await self._within_time(scope, receive, send, exchange)
                finally:
                    tell(*self._labels(scope), exchange.status, request_id)
        except ClientDisconnect:
            level = logging.WARNING
        except Exception:
            exchange.status, level = 500, logging.ERROR
            raise
        finally:
            seconds = time.monotonic() - started
            self._count(scope, exchange, seconds)
            client = scope.get("client")
            _log(
                request_id,
                scope["method"],
                scope["path"],
                exchange.status,
                seconds,
                client[0] if client else None,
                level=level,
                authenticated=state["client_certificate"] is not None,
            )

    def _labels(self, scope: Scope) -> tuple[str, str]:
        """Method and route, each out of a small set."""
        path, method = scope["path"], scope["method"]
        default = path if path in self._paths else _OTHER
        route: str = scope["state"].get("route", default)
        return method if method in _METHODS else _OTHER, route

    def _count(self, scope: Scope, exchange: _Exchange, seconds: float) -> None:
        method, route = self._labels(scope)
        _IN_FLIGHT.add(-1)
        _REQUESTS.add(route, method, str(exchange.status))
        _SECONDS.observe(seconds, route, method)
        _RECEIVED.add(route, amount=exchange.received)
        _SENT.add(route, amount=exchange.sent)

    async def _within_time(
        self, scope: Scope, receive: Receive, send: Send, exchange: _Exchange
    ) -> None:
        """Have the application answer; where it takes too long, answer that, or cut it off."""
        request_id: str = scope["state"]["request_id"]

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                exchange.is_answered = True
                message["headers"] = [
                    *message.get("headers", []),
                    (b"x-request-id", request_id.encode()),
                ]
                if exchange.status == 408:
                    # What still comes of that request is of no use.
                    message["headers"].append((b"connection", b"close"))
            else:
                exchange.sent += len(message.get("body", b""))
            await send(message)

        async def receive_in_time() -> Message:
            if exchange.body_arrived:
                # What comes now is the connection's end, whenever that is.
                return await receive()
            try:
                async with asyncio.timeout(self._limits.pause_seconds):
                    message = await receive()
            except TimeoutError:
                raise _stopped(self._limits.pause_seconds) from None
            exchange.received += len(message.get("body", b""))
            exchange.body_arrived = not message.get("more_body", False)
            return message

        receive_into = scope["state"].get(RECEIVE_INTO)
        if receive_into is not None:

            async def receive_into_in_time(place: memoryview) -> int:
                pause, loop = self._limits.pause_seconds, asyncio.get_running_loop()
                try:
                    async with asyncio.timeout(pause) as until:
                        count: int = await receive_into(
                            place, lambda: until.reschedule(loop.time() + pause)
                        )
                except TimeoutError:
                    raise _stopped(pause) from None
                exchange.received += count
                return count

            scope["state"][RECEIVE_INTO] = receive_into_in_time

        clock = asyncio.timeout(self._limits.request_seconds)
        try:
            async with clock:
                await self._app(scope, receive_in_time, send_with_id)
        except TimeoutError:
            if not clock.expired():
                raise
            if exchange.is_answered:
                # An answer that is not whole must not look like one.
                abort = scope["state"].get("abort")
                if abort is not None:
                    abort()
                return
            error = (
                Unavailable("took too long", field="request")
                if exchange.body_arrived
                else _late(self._limits.request_seconds)
            )
            await problem(error, request_id=request_id)(scope, receive, send_with_id)


def answer_known(
    known: Known, default_head: bytes, client: str | None, *, authenticated: bool
) -> bytes:
    """What is sent for a request whose answer was known; it is counted and logged as any other.

    Args:
        known: the answer.
        default_head: the header fields that all answers begin with.
        client: the client's address.
        authenticated: whether the client showed a certificate.
    """
    started = time.monotonic()
    request_id = new_request_id()
    data = known.to_bytes(default_head, request_id)
    seconds = time.monotonic() - started
    _REQUESTS.add(known.route, "GET", "200")
    _SECONDS.observe(seconds, known.route, "GET")
    _SENT.add(known.route, amount=len(known.body))
    _log(request_id, "GET", known.path, 200, seconds, client, authenticated=authenticated)
    return data


def answer_promptly(
    prompt: Prompt,
    request: Request,
    body: bytes,
    default_head: list[tuple[bytes, bytes]],
    client: str | None,
) -> bytes | Mapping[str, object]:
    """What is sent for a request that is answered at once; it is counted and logged as any other.

    Args:
        prompt: who answers.
        request: the request; it gets its id here.
        body: its body.
        default_head: the header fields that all answers begin with.
        client: the client's address.

    Returns:
        The whole answer; or what the request's state shall have besides when it takes the long
        way, where alone it is then counted and logged.
    """
    started = time.monotonic()
    state, path = request.scope["state"], request.scope["path"]
    request_id = state["request_id"] = new_request_id()
    level = logging.INFO
    try:
        found = prompt(request, body)
    except Exception:
        _LOGGER.exception("Exception in an application that answers at once")
        found, level = PlainTextResponse("Internal Server Error", 500), logging.ERROR
    if not isinstance(found, Response):
        return found
    status = found.status_code
    lines = (b"%b: %b\r\n" % field for field in (*default_head, *found.raw_headers))
    data = b"%bx-request-id: %b\r\n\r\n%b" % (
        STATUS_LINE[status] + b"".join(lines),
        request_id.encode(),
        bytes(found.body),
    )
    seconds = time.monotonic() - started
    _REQUESTS.add(path, "POST", str(status))
    _SECONDS.observe(seconds, path, "POST")
    _RECEIVED.add(path, amount=len(body))
    _SENT.add(path, amount=len(found.body))
    authenticated = state["client_certificate"] is not None
    _log(
        request_id,
        "POST",
        path,
        status,
        seconds,
        client,
        level=level,
        authenticated=authenticated,
    )
    return data


def _log(
    request_id: str,
    method: str,
    path: str,
    status: int,
    seconds: float,
    client: str | None,
    *,
    authenticated: bool,
    level: int = logging.INFO,
) -> None:
    log.record(
        "request",
        {
            "request_id": request_id,
            "method": method,
            "path": path,
            "status": status,
            "seconds": round(seconds, 4),
            "client": client,
            "authenticated": authenticated,
        },
        level=level,
    )


def header(request: Request, name: str) -> str | None:
    """The header field `name`; its lines, where there are several, as the list that they are.

    RFC 9110, section 5.3. Of a field that is no list, several make a value that it cannot have.
    """
    lines = request.headers.getlist(name)
    return ", ".join(lines) if lines else None


async def read_limited(request: Request, limit: int) -> bytes:
    """Read the body of `request`, of at most `limit` bytes, without buffering more than that.

    Raises:
        TooLarge: the body is longer, by its `Content-Length` or in truth.
        TooSlow: the client paused for too long (`Requests` knows how long that is).
    """
    declared = request.headers.get("content-length", "0")
    if len(declared) > 18 or (declared.isdecimal() and int(declared) > limit):
        raise _too_large(limit, declared[:18])
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limit:
            raise _too_large(limit, f"more than {limit}")
    return bytes(body)


def _has_body(scope: Scope) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )


def _too_large(limit: int, found: str) -> TooLarge:
    return TooLarge(
        "too long", field="request body", found=f"{found} bytes", expected=f"at most {limit} bytes"
    )


def _stopped(seconds: float) -> TooSlow:
    return TooSlow("stopped arriving", field="request body", found=f"nothing for {seconds:g} s")


def _late(seconds: float) -> TooSlow:
    return TooSlow(
        "did not arrive in time", field="request body", expected=f"all of it within {seconds:g} s"
    )
