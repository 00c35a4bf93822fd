"""Having on the disk what was written in a folder, before anybody is told that it is there.

The kernel writes when it likes; whoever must know asks it to (fsync(2)), and waits. A file's bytes
are flushed before the file gets its name. The name stands in a directory, which is flushed after
that; and so is the one in which that directory stands, up to the store's own folder, until it is
known that it was. A loss of power then leaves either nothing of a file, or all of it.

Flushes take their turns in threads of their own: the event loop, and whoever reads, never wait
for a disk that writes. One flush of a directory serves all who have put something there before it
began, and so uploads at once share most of them.

An error is raised to all whom that flush was for. None is passed over, not even that a file
system cannot flush directories (EINVAL): such a one promises nothing, and so neither can a store
there. `Store.check` tells of it before anybody puts something. (What cannot be written at all fails
before there is anything to flush.) A name whose directory could not be flushed stays: removing it
would have to be flushed too, and file systems that could not write a directory take no more writes,
so that whoever tries again is not told that it is there.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

# They wait for the disk, and file systems write for all who wait: more threads, fewer turns.
_THREADS = 16
# Directories whose own entries are known to be on the disk; about a megabyte of paths.
_MOST_KNOWN = 4096


def flush(path: str | Path) -> None:
    """Wait until the file at `path` is on the disk, or the entries of that directory.

    Raises:
        OSError: it is not there, cannot be opened, or could not be flushed.
    """
    # What was written through any descriptor is flushed through this one.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make the directory `path`, and those above it, if need be, and wait until they are there.

    Raises:
        OSError: it cannot be made, or could not be flushed.
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in made:
        flush(folder.parent)


class Flushes:
    """The flushes of the directories in one folder, which itself is there to stay."""

    def __init__(self, folder: str) -> None:
        self._top = folder
        self._known: OrderedDict[str, None] = OrderedDict()
        # For each directory: the flush that has begun, and the one after it, which others may join.
        self._begun: dict[str, asyncio.Task[None]] = {}
        self._next: dict[str, asyncio.Task[None]] = {}
        self._threads = ThreadPoolExecutor(_THREADS, "flush")

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Do `work`, which waits for the disk, and return what it returns; raises alike.

        Who goes away does not end it: it has a file open, and must close it itself.
        """
        loop = asyncio.get_running_loop()
        return await asyncio.shield(loop.run_in_executor(self._threads, work))

    def made(self, directory: str) -> None:
        """Take note that `directory` was made just now. May be called in any thread."""
        # If it is known, somebody removed it; no drawbridge ever does.
        self._known.pop(directory, None)

    async def entries(self, directory: str) -> None:
        """Wait until what was put into `directory`, or removed there, is so on the disk too.

        With it are flushed those above it, up to the folder, that are not known to have been.

        Raises:
            OSError: one could not be flushed.
        """
        path = [directory]
        while path[-1] != self._top and path[-1] not in self._known:
            path.append(os.path.dirname(path[-1]))  # noqa: PTH120  (for its price)
        # In any order: what is in a directory without an entry is not there.
        await asyncio.gather(*map(self._flush, path))
        for known in reversed(path):
            self._known.pop(known, None)
            self._known[known] = None
        while len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)

    async def _flush(self, directory: str) -> None:
        task = self._next.get(directory)
        if task is None:
            task = self._next[directory] = asyncio.create_task(self._in_turn(directory))
            task.add_done_callback(partial(self._ended, directory))
        # Who goes away does not end it for the others.
        await asyncio.shield(task)

    async def _in_turn(self, directory: str) -> None:
        begun = self._begun.get(directory)
        if begun is not None:
            # It may have passed over what was put there meanwhile. How it ends is for others.
            await asyncio.wait({begun})
        self._begun[directory] = self._next.pop(directory)
        await self.in_thread(partial(flush, directory))

    def _ended(self, directory: str, task: asyncio.Task[None]) -> None:
        for tasks in (self._begun, self._next):
            if tasks.get(directory) is task:
                del tasks[directory]
