"""The port for those who watch over a service: what it counted, whether it lives and is ready.

======= =========================================================================
`/metrics` all counts, in Prometheus' text format
`/live`    200: the process answers
`/ready`   200, or 503 with a problem document: it cannot serve now, or is about to end
======= =========================================================================

It has no TLS and asks nobody who he is: the address that it listens on decides who may see it.
A check of readiness costs something, so its result holds for some seconds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.routing import Route

from garrison.errors import GarrisonError, Unavailable
from garrison.service import log, metrics
from garrison.service.limits import Limits
from garrison.service.problem import problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from garrison.service.metrics import Write

LIMITS = Limits(connections=64, connections_per_address=32, idle_seconds=75, drain_seconds=1)
_CHECK_HOLDS_SECONDS = 5
_CHECK_SECONDS = 5


class _Readiness:
    """Checks at most every few seconds, and once for all who ask meanwhile."""

    def __init__(self, check: Callable[[], Awaitable[None]], is_ending: Callable[[], bool]) -> None:
        self._check = check
        self._is_ending = is_ending
        self._asking = asyncio.Lock()
        self._holds_until = -1.0
        self._error: GarrisonError | None = None

    async def error(self) -> GarrisonError | None:
        """Why it is not ready, or None."""
        if self._is_ending():
            return Unavailable("is about to end", field="service")
        async with self._asking:
            if time.monotonic() >= self._holds_until:
                before, self._error = self._error, await self._found()
                self._holds_until = time.monotonic() + _CHECK_HOLDS_SECONDS
                if str(before) != str(self._error):
                    self._note()
            return self._error

    async def _found(self) -> GarrisonError | None:
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                await self._check()
        except TimeoutError:
            return Unavailable("its check of itself took too long", field="service")
        except GarrisonError as error:
            return error
        return None

    def _note(self) -> None:
        if self._error is None:
            log.record("readiness", {"outcome": "ready"})
        else:
            facts = {"outcome": "not ready", "reason": str(self._error)}
            log.record("readiness", facts, level=logging.ERROR)


def application(
    write: Write, check: Callable[[], Awaitable[None]], is_ending: Callable[[], bool]
) -> Starlette:
    """The ASGI application of that port.

    Args:
        write: writes the metrics.
        check: raises an error of ours if the service cannot serve.
        is_ending: tells that the service was told to end.
    """
    readiness = _Readiness(check, is_ending)

    async def show_metrics(_request: Request) -> Response:
        # Of several workers it reads files.
        text = await run_in_threadpool(write)
        return Response(text, headers={"Content-Type": metrics.CONTENT_TYPE})

    async def live(_request: Request) -> Response:
        return Response()

    async def ready(_request: Request) -> Response:
        error = await readiness.error()
        return Response() if error is None else problem(error, status=503)

    return Starlette(
        routes=[
            Route("/metrics", show_metrics),
            Route("/live", live),
            Route("/ready", ready),
        ]
    )
