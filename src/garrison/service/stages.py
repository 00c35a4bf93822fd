"""The stages of a service's work: each is measured, and traced, by itself."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from garrison.service import metrics, tracing

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import TracebackType

_SECONDS = metrics.Histogram("garrison_stage_seconds", "Time of one stage of the work.", "stage")


class stage:  # noqa: N801 - it is used as a function is
    """Measure what is done within as the stage `name`, whether it succeeds or not.

    There are several to a request, and most services neither count nor trace: then it does nothing.
    """

    __slots__ = ("_name", "_span", "_started")

    def __init__(self, name: str) -> None:
        """Name the stage."""
        self._name = name
        self._started = 0.0
        self._span: AbstractContextManager[None] | None = None

    def __enter__(self) -> None:
        """Begin it."""
        if tracing.is_on():
            self._span = tracing.span(self._name)
            self._span.__enter__()
        if _SECONDS.is_on:
            self._started = time.perf_counter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        if self._started:
            _SECONDS.observe(time.perf_counter() - self._started, self._name)
        if self._span is not None:
            self._span.__exit__(kind, error, trace)
