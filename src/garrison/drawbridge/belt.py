"""The way of a long body through its digests and into its file, while more of it is received.

A body goes in blocks. Of each several things are made, in threads: each digest, and the file. Each
of these takes the blocks in their order, and waits for no other: as long as there is a block, there
is work for every core. When all have done with a block it is filled anew, so that an upload needs
the memory of a few, once.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    Job = Callable[[], None]

# Short, for each upload has some; but a job of it takes up to a millisecond, a change of threads
# some microseconds.
BLOCK = 1 << 19
# One is filled, and the others keep the threads busy however unevenly it is.
BLOCKS = 4


@cache
def _threads() -> Executor:
    """As many as have something to do: the jobs are computations."""
    return ThreadPoolExecutor(max(2, len(os.sched_getaffinity(0))), "digests")


class _Lane:
    """Does its jobs one after the other, each in the next thread that is free."""

    def __init__(self, threads: Executor) -> None:
        self._threads = threads
        self._lock = threading.Lock()
        self._jobs: deque[Job] = deque()

    def add(self, job: Job) -> None:
        """Have `job`, which does not fail, done after those before it."""
        with self._lock:
            self._jobs.append(job)
            is_first = len(self._jobs) == 1
        if is_first:
            self._threads.submit(self._turn)

    def _turn(self) -> None:
        self._jobs[0]()
        with self._lock:
            self._jobs.popleft()
            is_last = not self._jobs
        if not is_last:
            # After what other uploads have waiting.
            self._threads.submit(self._turn)


class Belt:
    """The blocks of one body, of which `BLOCKS` are in memory at most. End it with `end`."""

    def __init__(self, jobs: Callable[[memoryview], Sequence[Job]]) -> None:
        """Prepare.

        Args:
            jobs: what is to be done with a block, for each block as many; each job comes after the
                one that stands at the same place for the block before. When one has failed no
                more are done.
        """
        self._jobs = jobs
        self._lanes: list[_Lane] = []
        # Those that were sent, and when all have done with each.
        self._sent: deque[tuple[memoryview, asyncio.Event]] = deque()
        self._errors: list[BaseException] = []

    async def place(self) -> memoryview:
        """A block to be filled; raises what a job raised."""
        if len(self._sent) < BLOCKS:
            return memoryview(bytearray(BLOCK))
        block, is_free = self._sent[0]
        await is_free.wait()
        self._sent.popleft()
        self._check()
        return block

    def send(self, block: memoryview, size: int) -> None:
        """Have the first `size` bytes of `block` worked on, which came from `place`."""
        jobs = self._jobs(block[:size])
        self._lanes = self._lanes or [_Lane(_threads()) for _ in jobs]
        loop, is_free = asyncio.get_running_loop(), asyncio.Event()
        self._sent.append((block, is_free))
        left = list(jobs)

        def do(job: Job) -> None:
            try:
                if not self._errors:
                    job()
            except BaseException as error:  # noqa: BLE001 - whoever waits raises it
                self._errors.append(error)
            left.pop()
            # Two may see that, but not before both have done.
            if not left:
                loop.call_soon_threadsafe(is_free.set)

        for lane, job in zip(self._lanes, jobs, strict=True):
            lane.add(partial(do, job))

    async def end(self) -> None:
        """Wait until the threads have left all that was sent, and raise what a job raised first."""
        while self._sent:
            await self._sent[0][1].wait()
            self._sent.popleft()
        self._check()

    def _check(self) -> None:
        if self._errors:
            raise self._errors[0]
