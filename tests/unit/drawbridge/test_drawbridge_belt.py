"""The blocks of a body, worked on in threads: in order, bounded, and whoever fails is heard."""

from __future__ import annotations

import asyncio
import os
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from garrison.drawbridge import belt as belts
from garrison.drawbridge.belt import BLOCK, BLOCKS, Belt

if TYPE_CHECKING:
    from collections.abc import Callable


async def filled(belt: Belt, value: int) -> memoryview:
    place = await belt.place()
    place[:] = bytes([value]) * len(place)
    return place


def test_every_job_sees_every_block_in_order() -> None:
    seen: list[list[tuple[int, int]]] = [[], [], []]

    def jobs(block: memoryview) -> list[Callable[[], None]]:
        def look(which: int) -> None:
            seen[which].append((block[0], block[-1]))
            assert len(block) == BLOCK - 1

        return [partial(look, which) for which in range(3)]

    async def run() -> None:
        belt = Belt(jobs)
        for value in range(200):
            belt.send(await filled(belt, value), BLOCK - 1)
        await belt.end()

    asyncio.run(run())
    assert seen == [[(value, value) for value in range(200)]] * 3


def test_a_slow_job_holds_up_no_other_and_bounds_the_blocks() -> None:
    may_go, fast = threading.Event(), threading.Semaphore(0)

    def jobs(_: memoryview) -> list[Callable[[], None]]:
        def slow() -> None:
            assert may_go.wait(60)

        return [slow, fast.release]

    async def run() -> list[memoryview]:
        belt = Belt(jobs)
        places = []
        for value in range(BLOCKS):
            places.append(await filled(belt, value))
            belt.send(places[-1], BLOCK)
        for _ in range(BLOCKS):
            assert await asyncio.to_thread(fast.acquire, timeout=60)
        another = asyncio.ensure_future(belt.place())
        await asyncio.sleep(0.1)
        assert not another.done()
        may_go.set()
        places.append(await another)
        await belt.end()
        return places

    places = asyncio.run(run())
    assert places[-1] is places[0]


@pytest.mark.parametrize("failing", range(3))
def test_what_a_job_raises_is_raised_when_all_have_ended(failing: int) -> None:
    running: list[int] = []

    def jobs(block: memoryview) -> list[Callable[[], None]]:
        def work(which: int) -> None:
            running.append(which)
            if (block[0], which) == (2, failing):
                raise OSError("no room")
            running.remove(which)

        return [partial(work, which) for which in range(3)]

    async def run() -> None:
        belt = Belt(jobs)
        try:
            for value in range(50):
                belt.send(await filled(belt, value), BLOCK)
        finally:
            await belt.end()

    with pytest.raises(OSError, match="no room"):
        asyncio.run(run())
    assert running == [failing]


def test_who_ends_the_wait_for_a_block_ends_no_job() -> None:
    may_go, done = threading.Event(), threading.Semaphore(0)

    def jobs(_: memoryview) -> list[Callable[[], None]]:
        def slow() -> None:
            assert may_go.wait(60)
            done.release()

        return [slow]

    async def run() -> None:
        belt = Belt(jobs)
        for value in range(BLOCKS):
            belt.send(await filled(belt, value), BLOCK)
        # It goes on, and so do the jobs.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(belt.place(), 0.1)
        may_go.set()
        await belt.end()
        assert all(done.acquire(blocking=False) for _ in range(BLOCKS))

    asyncio.run(run())


def test_uploads_take_turns() -> None:
    """However much one has waiting, another's first block waits for little."""
    order: list[str] = []
    # As many as there are threads.
    count = max(2, len(os.sched_getaffinity(0)))

    def jobs(name: str, _: memoryview) -> list[Callable[[], None]]:
        return [lambda: order.append(name)]

    async def run() -> None:
        hold = threading.Event()
        held = [belts._threads().submit(hold.wait, 60) for _ in range(count)]
        first, other = Belt(partial(jobs, "first")), Belt(partial(jobs, "other"))
        for value in range(BLOCKS):
            first.send(await filled(first, value), BLOCK)
        other.send(await filled(other, 0), BLOCK)
        hold.set()
        for belt in (first, other):
            await belt.end()
        assert all(future.result(60) for future in held)

    asyncio.run(run())
    assert order.index("other") <= count + 1
