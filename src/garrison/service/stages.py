"""The stages of a service's work: each is measured, and traced, by itself."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from garrison.service import metrics, tracing

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECONDS = metrics.Histogram("garrison_stage_seconds", "Time of one stage of the work.", "stage")


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Measure what is done within as the stage `name`, whether it succeeds or not."""
    with _SECONDS.measured(name), tracing.span(name):
        yield
