"""Flushes that are shared: each is for all who came before it began, and nobody else."""

from __future__ import annotations

import errno
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from garrison.shared_flushes import SharedFlushes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

SECONDS = 60.0


class _Flushes(SharedFlushes[str]):
    """Those of one thing, which begin by themselves and end when a test says so."""

    def __init__(self) -> None:
        super().__init__(self._gate)
        self.begun = 0
        self.joined = threading.Semaphore(0)
        self.may_end = threading.Semaphore(0)
        self.has_begun = threading.Semaphore(0)
        self.error: BaseException | None = None

    def _gate(self, _what: str) -> None:
        self.begun += 1
        self.has_begun.release()
        assert self.may_end.acquire(timeout=SECONDS)
        if self.error is not None:
            raise self.error

    def _join(self, what: str) -> tuple[Future[None], bool]:
        joined = super()._join(what)
        self.joined.release()
        return joined

    def come(self, threads: ThreadPoolExecutor, count: int) -> list[Future[None]]:
        """So many more wait for a flush when this returns, or flush."""
        coming = [threads.submit(self, "it") for _ in range(count)]
        for _ in range(count):
            assert self.joined.acquire(timeout=SECONDS)
        return coming


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(120) as threads:
        yield threads


def test_one_flush_serves_all_who_came_before_it(threads: ThreadPoolExecutor) -> None:
    flushes = _Flushes()
    (first,) = flushes.come(threads, 1)
    assert flushes.has_begun.acquire(timeout=SECONDS)
    # It has begun, and may have passed over what these have written.
    rest = flushes.come(threads, 50)
    assert flushes.begun == 1
    flushes.may_end.release()
    first.result(SECONDS)
    assert flushes.has_begun.acquire(timeout=SECONDS)
    assert not any(future.done() for future in rest)
    # Nor do those who come now go before them: they have the next one, which may take long.
    late = flushes.come(threads, 50)
    flushes.may_end.release()
    for future in rest:
        future.result(SECONDS)
    assert flushes.has_begun.acquire(timeout=SECONDS)
    assert not any(future.done() for future in late)
    flushes.may_end.release()
    for future in late:
        future.result(SECONDS)
    threads.shutdown()
    assert flushes.begun == 3
    assert flushes._coming == flushes._under_way == {}


@pytest.mark.parametrize("error", [OSError(errno.EIO, "on fire"), MemoryError("on fire")])
def test_a_flush_that_fails_is_told_to_all_whom_it_was_for(
    threads: ThreadPoolExecutor, error: BaseException
) -> None:
    flushes = _Flushes()
    (first,) = flushes.come(threads, 1)
    assert flushes.has_begun.acquire(timeout=SECONDS)
    rest = flushes.come(threads, 3)
    flushes.may_end.release()
    first.result(SECONDS)
    assert flushes.has_begun.acquire(timeout=SECONDS)
    # This one comes when it has begun, and has a flush of its own.
    (last,) = flushes.come(threads, 1)
    flushes.error = error
    flushes.may_end.release()
    for future in rest:
        with pytest.raises(type(error), match="on fire"):
            future.result(SECONDS)
    flushes.error = None
    flushes.may_end.release()
    last.result(SECONDS)
    assert flushes.begun == 3


class _Upload:
    """What somebody has open who waits."""


def test_a_flush_that_fails_holds_nothing_of_those_it_was_for(threads: ThreadPoolExecutor) -> None:
    """An upload has no name, and would take room of a disk that is full until it is closed."""
    flushes, uploads = _Flushes(), []
    flushes.error = OSError(errno.ENOSPC, "full")

    def put() -> None:
        upload = _Upload()
        uploads.append(weakref.ref(upload))
        flushes("it")

    gc.disable()
    try:
        waiting = [threads.submit(put)]
        assert flushes.has_begun.acquire(timeout=SECONDS)
        waiting += [threads.submit(put) for _ in range(3)]
        for _ in range(4):
            assert flushes.joined.acquire(timeout=SECONDS)
        flushes.may_end.release(2)
        errors = [future.exception(SECONDS) for future in waiting]
        # Each has its own: one that many threads raise is of all places at once.
        assert len({id(error) for error in errors if isinstance(error, OSError)}) == 4
        threads.shutdown()
        del waiting, errors
        assert [upload() for upload in uploads] == [None] * 4
    finally:
        gc.enable()


def test_things_do_not_wait_for_each_other(threads: ThreadPoolExecutor) -> None:
    flushes = _Flushes()
    (first,) = flushes.come(threads, 1)
    other = threads.submit(flushes, "other")
    for _ in range(2):
        assert flushes.has_begun.acquire(timeout=SECONDS)
    flushes.may_end.release(2)
    first.result(SECONDS)
    other.result(SECONDS)
