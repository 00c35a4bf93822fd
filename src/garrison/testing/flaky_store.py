"""A store that fails some of its calls, before it has done what was asked of it or after."""

from __future__ import annotations

import random
from typing import IO, TYPE_CHECKING

from obstore.store import MemoryStore

from garrison.drawbridge.named import Named, StorageFailure
from garrison.drawbridge.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class FlakyStore(Store):
    """A store in memory, that fails the given `share` of its calls, the same ones for a `seed`."""

    def __init__(self, share: float, seed: int) -> None:
        super().__init__(MemoryStore())
        self.share = share
        self.failures = 0
        self._random = random.Random(seed)  # noqa: S311  (moments of a test)

    def _perhaps_fail(self) -> None:
        # Asked before and after each call.
        if self._random.random() < self.share / 2:
            self.failures += 1
            raise StorageFailure("Storage backend failure")

    async def create(self, key: str, named: Named) -> None:
        """See the base."""
        self._perhaps_fail()
        await super().create(key, named)
        self._perhaps_fail()

    async def named(self, key: str) -> Named | None:
        """See the base."""
        self._perhaps_fail()
        found = await super().named(key)
        self._perhaps_fail()
        return found

    async def put_content(self, key: str, file: IO[bytes]) -> None:
        """See the base."""
        self._perhaps_fail()
        await super().put_content(key, file)
        self._perhaps_fail()

    async def content(
        self, key: str, length: int, part: tuple[int, int] | None = None
    ) -> AsyncIterator[bytes | memoryview]:
        """See the base."""
        self._perhaps_fail()
        found = await super().content(key, length, part)
        self._perhaps_fail()
        return found
