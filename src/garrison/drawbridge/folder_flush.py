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
there. `Store.check`, and so `/ready`, tells of it beforehand. (What cannot be written at all fails
before there is anything to flush.) A name whose directory could not be flushed stays: removing it
would have to be flushed too, and file systems that could not write a directory take no more writes,
so that whoever tries again is not told that it is there.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from garrison.disk import flush
from garrison.shared_flushes import SharedFlushes

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

# They wait for the disk, and file systems write for all who wait: more threads, fewer turns.
_THREADS = 16
# Directories whose own entries are known to be on the disk; about a megabyte of paths.
_MOST_KNOWN = 4096


class Flushes:
    """The flushes of the directories in one folder, which itself is there to stay."""

    def __init__(self, folder: str) -> None:
        self._top = folder
        self._lock = threading.Lock()
        self._known: OrderedDict[str, None] = OrderedDict()
        self._flush = SharedFlushes[str](flush)
        self._threads = ThreadPoolExecutor(_THREADS, "flush")

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Do `work`, which waits for the disk, and return what it returns; raises alike.

        Who goes away does not end it: it has a file open, and must close it itself.
        """
        loop = asyncio.get_running_loop()
        return await asyncio.shield(loop.run_in_executor(self._threads, work))

    # In a thread.

    def made(self, directory: str) -> None:
        """Take note that `directory` was made just now."""
        with self._lock:
            # If it is known, somebody removed it; no drawbridge ever does.
            self._known.pop(directory, None)

    def entries(self, directory: str) -> None:
        """Wait until what was put into `directory`, or removed there, is so on the disk too.

        With it are flushed those above it, up to the folder, that are not known to have been.

        Raises:
            OSError: one could not be flushed.
        """
        path = [directory]
        with self._lock:
            while path[-1] != self._top and path[-1] not in self._known:
                path.append(os.path.dirname(path[-1]))  # noqa: PTH120  (for its price)
        # In any order: what is in a directory without an entry is not there.
        for one in path:
            self._flush(one)
        with self._lock:
            for one in reversed(path):
                self._known[one] = None
                self._known.move_to_end(one)
            while len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)
