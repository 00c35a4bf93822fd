"""The directories of trees, as the store has them; those that were needed lately stay in memory.

A node is put only where its directory lists it, so that a tree of thousands of nodes asks for
its directory thousands of times. What is kept is named by its digest, and cannot change.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING

from garrison.drawbridge.layout import content_key
from garrison.drawbridge.named import StorageFailure, damaged
from garrison.errors import Malformed
from garrison.formats.tree import Directory, Entry

if TYPE_CHECKING:
    from garrison.drawbridge.store import Store

# In all that are kept: twice the largest package. An entry is about a kilobyte here.
_MOST_ENTRIES = 20_000


class Directories:
    """The directories in a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: OrderedDict[bytes, Directory] = OrderedDict()
        self._entries = 0

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
        key = content_key(digest)
        pieces = await self._store.content(key, entry.length)
        data = b"".join([piece async for piece in pieces])
        if hashlib.sha256(data).digest() != digest:
            raise damaged(f"{key}: other content")
        try:
            read = Directory.from_bytes(data)
        except Malformed as error:
            raise StorageFailure("Storage backend failure") from error
        # What custom members hold can take twenty times the bytes that it is spelled with.
        found = Directory(
            {
                name: Entry(listed.digest, listed.length, listed.type)
                for name, listed in read.entries.items()
            }
        )
        self._keep(digest, found)
        return found

    def _keep(self, digest: bytes, directory: Directory) -> None:
        # Somebody else may have asked for the same meanwhile.
        if digest not in self._kept:
            self._kept[digest] = directory
            self._entries += len(directory.entries)
        while self._entries > _MOST_ENTRIES:
            _, oldest = self._kept.popitem(last=False)
            self._entries -= len(oldest.entries)
