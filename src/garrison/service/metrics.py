"""What a service counts, in Prometheus' words: served on a port of its own, if asked for.

A part of a service declares its families once, beside the code that counts. Until `start` they
count nothing and cost nothing. Where several workers serve, each writes to files of its own in
one directory, and whichever is asked tells the sum: no count falls when a worker dies.

Labels are of small fixed sets (a route's template, never a path): a client cannot make series.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Write = Callable[[], bytes]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# From a tag out of memory to a file of 100 MB over a slow line.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

_FAMILIES: list[_Family] = []


class _Family:
    def __init__(self, name: str, text: str, *labels: str) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._real: Any = None
        _FAMILIES.append(self)

    @property
    def is_on(self) -> bool:
        """Whether anything is counted."""
        return self._real is not None

    def _child(self, labels: tuple[str, ...]) -> Any:
        return self._real.labels(*labels) if labels else self._real

    def _make(self, registry: Any) -> Any:
        raise NotImplementedError


class Counter(_Family):
    """Only ever grows."""

    def add(self, *labels: str, amount: float = 1) -> None:
        """Count `amount` under `labels`."""
        if self._real is not None:
            self._child(labels).inc(amount)

    def _make(self, registry: Any) -> Any:
        from prometheus_client import Counter as Real

        return Real(self._name, self._text, self._labels, registry=registry)


class Gauge(_Family):
    """Goes up and down; of all workers that live, the sum."""

    def add(self, amount: float, *labels: str) -> None:
        """Change it by `amount`."""
        if self._real is not None:
            self._child(labels).inc(amount)

    def _make(self, registry: Any) -> Any:
        from prometheus_client import Gauge as Real

        return Real(
            self._name, self._text, self._labels, registry=registry, multiprocess_mode="livesum"
        )


class Histogram(_Family):
    """How long something took."""

    def observe(self, seconds: float, *labels: str) -> None:
        """Count one that took `seconds`."""
        if self._real is not None:
            self._child(labels).observe(seconds)

    @contextmanager
    def measured(self, *labels: str) -> Iterator[None]:
        """Measure what is done within, whether it succeeds or not."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.observe(time.perf_counter() - started, *labels)

    def _make(self, registry: Any) -> Any:
        from prometheus_client import Histogram as Real

        return Real(self._name, self._text, self._labels, registry=registry, buckets=_BUCKETS)


def start(directory: Path | None) -> Write:
    """Count from now on. Call it once, before there are workers.

    Args:
        directory: an empty directory for the counts of several workers; None where there is one.

    Returns:
        A function that writes all counts down, in the text format that `CONTENT_TYPE` names.
    """
    if directory is not None:
        # The library looks for it when it is imported, and when a process first counts.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    for family in _FAMILIES:
        family._real = family._make(None if directory is not None else registry)  # noqa: SLF001 - this module's own

    def write() -> bytes:
        if directory is None:
            return generate_latest(registry)
        # Made anew: it reads the files of all workers, once.
        summed = CollectorRegistry()
        MultiProcessCollector(summed, str(directory))  # type: ignore[no-untyped-call]  # has no types
        return generate_latest(summed)

    return write


def forget_worker(pid: int) -> None:
    """Drop the gauges of a worker that ended; its counts stay."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(pid)  # type: ignore[no-untyped-call]  # has no types
