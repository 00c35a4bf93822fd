"""One process of a service: it serves connections until it is told to end, and drains.

SIGTERM or SIGINT: no new connections; what is under way is finished, within a limit. A second
signal cuts it short. SIGHUP: what is configured in files is read again; the TLS files are looked
at every few seconds besides. What cannot be used is logged and changes nothing.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from dataclasses import dataclass
from email.utils import formatdate
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from garrison.errors import GarrisonError
from garrison.service import admin, log
from garrison.service.frontend import Frontend
from garrison.service.requests import Requests

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Collection

    from starlette.types import ASGIApp

    from garrison.service.known import Lookup
    from garrison.service.limits import Limits
    from garrison.service.metrics import Write
    from garrison.service.prompt import Prompt
    from garrison.service.tls import Tls

# How often it looks whether the last connection has gone.
_DRAIN_STEP_SECONDS = 0.05
# For the last bytes of answers, and what was sent just before a client saw the end.
_GOODBYE_SECONDS = 2.0
# How often it looks whether the TLS files have changed: three calls of stat.
_LOOK_SECONDS = 10.0


async def _always() -> None:
    """Nothing to check."""


def _nothing() -> None:
    """Nothing to do."""


@dataclass(frozen=True, slots=True)
class Hosted:
    """What a service serves.

    Attributes:
        app: the ASGI application.
        ready: checks that it can answer; raises an error of ours if not.
        paths: see `garrison.service.requests.Requests`.
        reload: reads again what it is configured by, apart from TLS; what cannot be used it logs.
        known: finds answers that are known already; None where there are no such.
        prompt: answers requests at once; None where that cannot be.
        use_certificate: checks that the TLS certificate may be used, before a new one is; raises
            an error of ours if not.
    """

    app: ASGIApp
    ready: Callable[[], Awaitable[None]] = _always
    paths: Collection[str] = ()
    reload: Callable[[], None] = _nothing
    known: Lookup | None = None
    prompt: Prompt | None = None
    use_certificate: Callable[[], None] = _nothing


@dataclass(frozen=True, slots=True)
class Watched:
    """The port for those who watch over the service.

    Attributes:
        listener: listens already.
        write: writes the metrics.
    """

    listener: socket.socket
    write: Write


def _config(app: ASGIApp) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        http=HttpToolsProtocol,
        ws="none",
        lifespan="auto",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
    )
    config.load()
    return config


class Worker:
    """Serves what is hosted, from a socket that listens."""

    def __init__(
        self,
        hosted: Hosted,
        listener: socket.socket,
        tls: Tls,
        limits: Limits,
        watched: Watched | None = None,
        lifeline: int | None = None,
    ) -> None:
        """Prepare; `run` begins.

        Args:
            hosted: what is served.
            listener: listens already; other workers may share it.
            tls: its TLS.
            limits: what clients may take.
            watched: the port for those who watch over the service, if there is one.
            lifeline: a descriptor that can be read when the worker's supervisor has gone; None
                where there is no supervisor.
        """
        self._lifeline = lifeline
        self._hosted = hosted
        self._tls = tls
        self._limits = limits
        self._state = ServerState()
        self._config = _config(Requests(hosted.app, limits, hosted.paths))
        self._frontend = Frontend(
            listener,
            lambda: tls.context,
            self._config,
            self._state,
            limits,
            known=hosted.known,
            prompt=hosted.prompt,
        )
        self._told = 0
        self._end = asyncio.Event()
        self._admin: Frontend | None = None
        if watched is not None:
            app = admin.application(watched.write, hosted.ready, self._end.is_set)
            self._admin = Frontend(
                watched.listener,
                lambda: None,
                _config(app),
                ServerState(),
                admin.LIMITS,
                is_counted=False,
            )

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until a signal ends it.

        Args:
            ready: called when connections are accepted.
        """
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._terminate)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        # One that came since the process began is heard now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        if self._lifeline is None:
            loop.add_signal_handler(signal.SIGINT, self._terminate)
        else:
            loop.add_reader(self._lifeline, self._bereave, self._lifeline)
        tasks = [loop.create_task(self._tell_the_date()), loop.create_task(self._look_at_tls())]
        # What the application does besides answering, for as long as it is served.
        lifespan = self._config.lifespan_class(self._config)
        await lifespan.startup()
        if lifespan.should_exit:
            raise RuntimeError("the application does not start")
        self._frontend.open()
        if self._admin is not None:
            self._admin.open()
        # What was made until here stays: the collector need not pause to look at it again.
        gc.collect()
        gc.freeze()
        ready()
        await self._end.wait()
        await self._drain()
        if self._admin is not None:
            self._admin.close()
            self._admin.abort()
        await lifespan.shutdown()
        for task in tasks:
            task.cancel()

    def _bereave(self, lifeline: int) -> None:
        asyncio.get_running_loop().remove_reader(lifeline)
        self._terminate()

    def _terminate(self) -> None:
        self._told += 1
        self._end.set()

    def _reload(self) -> None:
        self._hosted.reload()
        self._reload_tls()

    def _reload_tls(self) -> None:
        try:
            self._tls.reload(self._hosted.use_certificate)
        except GarrisonError as error:
            log.record("tls", {"outcome": "refused", "reason": str(error)}, level=logging.ERROR)
        else:
            log.record("tls", {"outcome": "reloaded"})

    async def _look_at_tls(self) -> None:
        """Take the TLS files into use when they are replaced."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if self._tls.has_changed:
                self._reload_tls()

    async def _tell_the_date(self) -> None:
        """Keep the `Date` header right."""
        while True:
            date = (b"date", formatdate(usegmt=True).encode())
            self._state.default_headers = [date, *self._config.encoded_headers]
            await asyncio.sleep(1)

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        self._frontend.close()
        deadline = loop.time() + self._limits.drain_seconds
        answered_by = loop.time()
        drained: set[object] = set()
        while not self._frontend.is_empty and self._told == 1 and loop.time() < deadline:
            # Those whose handshake ends only now are told too, each once.
            for connection in self._state.connections - drained:
                drained.add(connection)
                connection.shutdown()
            await asyncio.sleep(_DRAIN_STEP_SECONDS)
            if self._state.tasks:
                answered_by = loop.time()
            elif loop.time() > answered_by + _GOODBYE_SECONDS:
                # A client that holds its connection does not hold the service.
                break
        self._frontend.abort()
        # An answer may still end, in its task: it is heard by nobody.
        for task in list(self._state.tasks):
            task.cancel()
        await asyncio.gather(*self._state.tasks, return_exceptions=True)
