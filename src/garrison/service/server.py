"""Serving an ASGI application over TLS: one line when ready, a clean end.

One process serves, or several (`garrison.service.supervisor`) from the same socket.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from garrison.errors import Unavailable
from garrison.service import log, metrics, tracing
from garrison.service.limits import DEFAULTS, Limits
from garrison.service.supervisor import Calling, Supervisor
from garrison.service.tls import Tls
from garrison.service.worker import Hosted, Watched, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Connections that wait to be accepted.
_BACKLOG = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a service runs.

    Attributes:
        name: the service's name, for its line and the log.
        host: the address to listen on.
        port: the port to listen on; 0 takes a free one.
        certificate: PEM file with the server's chain.
        key: PEM file with its private key.
        client_ca: PEM file with the roots of client certificates, which clients may present.
        json_output: say the line in JSON.
        limits: what clients may take.
        metrics: address and port for `/metrics`, `/ready` and `/live`; None for none.
        workers: how many processes serve.
        otel_endpoint: base URL of the collector of traces; None for no traces.
    """

    name: str
    host: str
    port: int
    certificate: Path
    key: Path
    client_ca: Path | None = None
    json_output: bool = False
    limits: Limits = DEFAULTS
    metrics: tuple[str, int] | None = None
    workers: int = 1
    otel_endpoint: str | None = None


def _nothing() -> None:
    """Nothing to read again."""


def serve(
    build: Callable[[], Hosted], settings: Settings, renew: Callable[[], None] = _nothing
) -> None:
    """Serve what `build` makes until SIGTERM or SIGINT.

    Args:
        build: makes what is served, in the process that serves it.
        settings: how.
        renew: where several workers serve: reads again, at SIGHUP, what `build` uses, in the
            process that starts workers.

    When it is ready, exactly one line goes to standard output: `NAME listening on URL`, or
    with `json_output` an object with `event`, `url`, and `metrics` if that is asked for.

    Raises:
        Misuse: the certificate, key or CA file cannot be used; or traces cannot be sent.
        Unavailable: the address cannot be listened on.
    """
    if settings.otel_endpoint is not None:
        tracing.check(settings.otel_endpoint)
    tls = Tls(settings.certificate, settings.key, settings.client_ca)
    # Until a worker listens for it, it must neither end the process nor be lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    signal.signal(signal.SIGHUP, lambda _number, _frame: None)
    with ExitStack() as stack:
        listener = stack.enter_context(_listen(settings.host, settings.port))
        url = f"https://{_address(settings.host, listener)}"
        watched = metrics_url = None
        if settings.metrics is not None:
            directory = None
            if settings.workers > 1:
                directory = stack.enter_context(_directory_of_this_process())
            watched = Watched(
                stack.enter_context(_listen(*settings.metrics)), metrics.start(directory)
            )
            metrics_url = f"http://{_address(settings.metrics[0], watched.listener)}/metrics"
        log.configure(settings.name)

        def work(calling: Calling) -> None:
            worker = Worker(build(), listener, tls, settings.limits, watched, calling.lifeline)
            end_traces = None
            if settings.otel_endpoint is not None:
                end_traces = tracing.start(settings.name, settings.otel_endpoint)
            try:
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    runner.run(worker.run(calling.ready))
            finally:
                if end_traces is not None:
                    end_traces()

        def announce() -> None:
            _announce(settings, url, metrics_url)

        def close() -> None:
            listener.close()
            if watched is not None:
                watched.listener.close()

        if settings.workers == 1:
            work(Calling(announce, None))
            return
        code = Supervisor(
            settings.workers,
            work,
            announce=announce,
            close=close,
            forget=metrics.forget_worker,
            renew=renew,
            drain_seconds=settings.limits.drain_seconds,
        ).run()
        if code:
            raise SystemExit(code)


@contextmanager
def _directory_of_this_process() -> Iterator[Path]:
    """A directory that is removed at the end, though not at that of a process which parted."""
    directory, owner = Path(tempfile.mkdtemp(prefix="garrison-metrics-")), os.getpid()
    try:
        yield directory
    finally:
        if os.getpid() == owner:
            shutil.rmtree(directory)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        dual = host == "::" and socket.has_dualstack_ipv6()
        listener = socket.create_server(
            address[:2], family=family, backlog=_BACKLOG, dualstack_ipv6=dual
        )
        # Accepted sockets inherit it. asyncio would set it too, but for sockets of protocol 6
        # alone, and these say 0; without it an answer waits 40 ms for an acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        raise Unavailable(
            f"cannot listen: {error.strerror or error}", field="address", found=f"{host}:{port}"
        ) from error
    return listener


def _address(host: str, listener: socket.socket) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"{shown}:{listener.getsockname()[1]}"


def _announce(settings: Settings, url: str, metrics_url: str | None) -> None:
    """Say that it is ready, and where."""
    if metrics_url is not None:
        log.record("metrics", {"url": metrics_url})
    if settings.json_output:
        also = {} if metrics_url is None else {"metrics": metrics_url}
        print(json.dumps({"event": "listening", "url": url, **also}), flush=True)
    else:
        print(f"{settings.name} listening on {url}", flush=True)
