"""Serving an ASGI application over TLS: one process, one line when ready, a clean end.

Each request carries in its state what this module knows and an application cannot find out:
`client_certificate` (DER of the client's verified certificate, or None) and `request_id`.
The access log has neither headers nor query strings: tokens travel in both.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import socket
import time
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from garrison.errors import Malformed, Unavailable
from garrison.service import log
from garrison.service.problem import TooLarge
from garrison.service.tls import server_context

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# A connection that does not finish saying what it wants holds a socket: it is cut off.
_HEADERS_SECONDS = 30
_KEEP_ALIVE_SECONDS = 30
_BODY_PAUSE_SECONDS = 30
# Requests that are under way when the service is told to end may take this long.
_GRACE_SECONDS = 10
# One machine's worth of connections; more are answered 503 instead of exhausting memory.
_MAX_CONNECTIONS = 2000


def serve(
    app: ASGIApp,
    *,
    name: str,
    host: str,
    port: int,
    certificate: Path,
    key: Path,
    client_ca: Path | None,
    json_output: bool = False,
) -> None:
    """Serve `app` until SIGTERM or SIGINT.

    When it is ready, exactly one line goes to standard output: `NAME listening on URL`, or
    with `json_output` an object with `event` and `url`.

    Args:
        app: the ASGI application.
        name: the service's name, for the line and the log.
        host: the address to listen on.
        port: the port to listen on; 0 takes a free one.
        certificate: PEM file with the server's chain.
        key: PEM file with its private key.
        client_ca: PEM file with the roots of client certificates, which clients may present.
        json_output: say the line in JSON.

    Raises:
        Misuse: the certificate, key or CA file cannot be used.
        Unavailable: the address cannot be listened on.
    """
    context = server_context(certificate, key, client_ca)
    listener = _listen(host, port)
    log.configure(name)
    config = uvicorn.Config(
        AccessLog(app),
        loop="asyncio",
        http=_Protocol,
        ws="none",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ssl_context_factory=lambda _config, _default: context,
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    with listener:
        _Server(config, name, _url(host, listener), json_output=json_output).run([listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        dual = host == "::" and socket.has_dualstack_ipv6()
        listener = socket.create_server(
            address[:2], family=family, backlog=512, dualstack_ipv6=dual
        )
        # Accepted sockets inherit it. asyncio would set it too, but for sockets of protocol 6
        # alone, and these say 0; without it an answer waits 40 ms for an acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        raise Unavailable(
            f"cannot listen: {error.strerror or error}", field="address", found=f"{host}:{port}"
        ) from error
    return listener


def _url(host: str, listener: socket.socket) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"https://{shown}:{listener.getsockname()[1]}"


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, name: str, url: str, *, json_output: bool) -> None:
        super().__init__(config)
        self._ready = (
            json.dumps({"event": "listening", "url": url})
            if json_output
            else f"{name} listening on {url}"
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(self._ready, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the base's
        # The base would raise the signal again after a clean end, and so spoil the exit code.
        # A second signal ends without waiting.
        self.force_exit = self.should_exit
        self.should_exit = True


class _Protocol(HttpToolsProtocol):
    """Puts the connection's client certificate in the state of each of its requests."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        certificate = None if tls is None else tls.getpeercert(binary_form=True)
        # The base copies this into every request. It must not be the dictionary that all
        # connections share.
        self.app_state = {**self.app_state, "client_certificate": certificate}
        self._set_deadline()

    def on_message_begin(self) -> None:
        self._set_deadline()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._cancel_deadline()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        super().connection_lost(exc)

    def _set_deadline(self) -> None:
        self._cancel_deadline()
        self._deadline = self.loop.call_later(_HEADERS_SECONDS, self.transport.abort)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class AccessLog:
    """ASGI middleware: gives each request an id, and logs one line when it has ended."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id
        state.setdefault("client_certificate", None)
        # What is logged for a client that went away before its answer began.
        status = 499
        started = time.monotonic()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", []),
                    (b"x-request-id", request_id.encode()),
                ]
            await send(message)

        level = logging.INFO
        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            level = logging.WARNING
        except Exception:
            status, level = 500, logging.ERROR
            raise
        finally:
            client = scope.get("client")
            log.record(
                "request",
                {
                    "request_id": request_id,
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "seconds": round(time.monotonic() - started, 4),
                    "client": client[0] if client else None,
                    "authenticated": state["client_certificate"] is not None,
                },
                level=level,
            )


async def read_limited(request: Request, limit: int) -> bytes:
    """Read the body of `request`, of at most `limit` bytes, without buffering more than that.

    Raises:
        TooLarge: the body is longer, by its `Content-Length` or in truth.
        Malformed: the client paused for too long.
    """
    declared = request.headers.get("content-length", "0")
    if len(declared) > 18 or (declared.isdecimal() and int(declared) > limit):
        raise _too_large(limit, declared[:18])
    body = bytearray()
    chunks = request.stream().__aiter__()
    while True:
        try:
            body += await asyncio.wait_for(anext(chunks), _BODY_PAUSE_SECONDS)
        except StopAsyncIteration:
            return bytes(body)
        except TimeoutError as error:
            raise Malformed(
                "the body stopped arriving",
                field="request body",
                found=f"{len(body)} bytes, then nothing for {_BODY_PAUSE_SECONDS} s",
            ) from error
        if len(body) > limit:
            raise _too_large(limit, f"more than {limit}")


def _too_large(limit: int, found: str) -> TooLarge:
    return TooLarge(
        "too long", field="request body", found=f"{found} bytes", expected=f"at most {limit} bytes"
    )
