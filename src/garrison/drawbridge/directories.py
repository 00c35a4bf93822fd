"""The directories of trees, as the store has them; those that were needed lately stay in memory.

A node is put only where its directory lists it, so that a tree of thousands of nodes asks for
its directory thousands of times. What is kept is named by its digest, and cannot change.

A long directory is read in a thread: one of many custom members takes a tenth of a second of a
processor, and everybody else's requests would wait for it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from garrison.drawbridge.layout import content_key
from garrison.drawbridge.named import StorageFailure, damaged
from garrison.drawbridge.single_flight import SingleFlight
from garrison.errors import Malformed
from garrison.formats.tree import Directory, Entry

if TYPE_CHECKING:
    from garrison.drawbridge.store import Store

# In all that are kept: twice the largest package. An entry is about a kilobyte here.
_MOST_ENTRIES = 20_000
# What takes less than a few milliseconds, whatever is in it, is not worth a thread.
_SHORT = 4096


def _listed(data: bytes) -> Directory:
    # What custom members hold can take twenty times the bytes that it is spelled with, and a while
    # to be freed: here.
    return Directory(
        {
            name: Entry(listed.digest, listed.length, listed.type)
            for name, listed in Directory.from_bytes(data).entries.items()
        }
    )


class Directories:
    """The directories in a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: OrderedDict[bytes, Directory] = OrderedDict()
        self._entries = 0
        self._reading = SingleFlight[bytes, Directory]()
        # One: they would take turns at the interpreter, and other work needs threads too.
        self._thread = ThreadPoolExecutor(1, "directories")

    async def parse(self, data: bytes) -> Directory:
        """Read a directory's content, without custom members.

        Raises:
            Malformed: it is not a directory.
        """
        if len(data) <= _SHORT:
            return _listed(data)
        return await asyncio.get_running_loop().run_in_executor(self._thread, _listed, data)

    async def get(self, entry: Entry) -> Directory:
        """The directory of which this is the entry, without custom members.

        Raises:
            StorageFailure: the store does not answer.
            Damaged: it has something else.
        """
        digest = entry.workload_digest
        kept = self._kept.get(digest)
        if kept is not None:
            self._kept.move_to_end(digest)
            return kept
        # All of a tree's nodes come at once.
        return await self._reading.do(digest, partial(self._read, digest, entry.length))

    async def _read(self, digest: bytes, length: int) -> Directory:
        key = content_key(digest)
        pieces = await self._store.content(key, length)
        data = b"".join([piece async for piece in pieces])
        if hashlib.sha256(data).digest() != digest:
            raise damaged(f"{key}: other content")
        try:
            found = await self.parse(data)
        except Malformed as error:
            raise StorageFailure("Storage backend failure") from error
        self._keep(digest, found)
        return found

    def _keep(self, digest: bytes, directory: Directory) -> None:
        self._kept[digest] = directory
        self._entries += len(directory.entries)
        while self._entries > _MOST_ENTRIES:
            _, oldest = self._kept.popitem(last=False)
            self._entries -= len(oldest.entries)
