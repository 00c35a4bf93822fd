"""One process of a service: it serves connections until it is told to end, and drains.

SIGTERM or SIGINT: no new connections; what is under way is finished, within a limit. A second
signal cuts it short.
"""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass
from email.utils import formatdate
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from garrison.service import admin
from garrison.service.frontend import Frontend
from garrison.service.requests import Requests

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Awaitable, Callable, Collection

    from starlette.types import ASGIApp

    from garrison.service.limits import Limits
    from garrison.service.metrics import Write

# How often it looks whether the last connection has gone.
_DRAIN_STEP_SECONDS = 0.05


async def _always() -> None:
    """Nothing to check."""


@dataclass(frozen=True, slots=True)
class Hosted:
    """What a service serves.

    Attributes:
        app: the ASGI application.
        ready: checks that it can answer; raises an error of ours if not.
        paths: see `garrison.service.requests.Requests`.
    """

    app: ASGIApp
    ready: Callable[[], Awaitable[None]] = _always
    paths: Collection[str] = ()


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
        lifespan="off",
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
        context: ssl.SSLContext,
        limits: Limits,
        watched: Watched | None = None,
    ) -> None:
        self._context = context
        self._limits = limits
        self._state = ServerState()
        self._config = _config(Requests(hosted.app, limits, hosted.paths))
        self._frontend = Frontend(
            listener, lambda: self._context, self._config, self._state, limits
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
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._terminate)
        clock = loop.create_task(self._tell_the_date())
        self._frontend.open()
        if self._admin is not None:
            self._admin.open()
        ready()
        await self._end.wait()
        await self._drain()
        if self._admin is not None:
            self._admin.close()
            self._admin.abort()
        clock.cancel()

    def _terminate(self) -> None:
        self._told += 1
        self._end.set()

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
        drained: set[object] = set()
        while not self._frontend.is_empty and self._told == 1 and loop.time() < deadline:
            # Those whose handshake ends only now are told too, each once.
            for connection in self._state.connections - drained:
                drained.add(connection)
                connection.shutdown()
            await asyncio.sleep(_DRAIN_STEP_SECONDS)
        self._frontend.abort()
        # An answer may still end, in its task: it is heard by nobody.
        for task in list(self._state.tasks):
            task.cancel()
        await asyncio.gather(*self._state.tasks, return_exceptions=True)
