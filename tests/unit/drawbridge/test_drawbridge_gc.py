"""Garbage collection loses nothing, however it is interleaved with an upload."""

from __future__ import annotations

import asyncio
import io
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import obstore
import pytest

from garrison.drawbridge.fsck import check
from garrison.drawbridge.gc import Collected, collect
from garrison.drawbridge.layout import content_key, node_name, tag_name
from garrison.drawbridge.named import Damaged, Named
from garrison.drawbridge.store import Store
from garrison.errors import Rejected, Unavailable
from garrison.formats.tree import ENTRY_TYPE, Package
from garrison.testing.drawbridge import MemoryDrawbridge

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from garrison.formats.slug import Slug

NOW = timedelta(0)
DAY = timedelta(days=1)
_CALLS = ("put_async", "head_async", "get_async", "copy_async", "delete_async")


async def _read(store: Store, key: str, length: int) -> bytes:
    return b"".join([piece async for piece in await store.content(key, length)])


class _Interleaved:
    """Does something before each of the store's calls, as another replica would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self.at: dict[int, list[Callable[[], Awaitable[None]]]] = {}
        self._busy = False
        for name in _CALLS:
            monkeypatch.setattr(obstore, name, self._wrap(getattr(obstore, name)))

    def _wrap(self, call: Any) -> Any:
        async def wrapped(*args: Any, **options: Any) -> Any:
            if not self._busy:
                self._busy = True
                for action in self.at.pop(self.calls, []):
                    await action()
                self._busy = False
                self.calls += 1
            return await call(*args, **options)

        return wrapped


async def _race(drawbridge: MemoryDrawbridge, slug: Slug, interleaved: _Interleaved,
                first: int, second: int) -> int:  # fmt: skip
    """Upload a root in two steps at two moments of a collection; return the number of moments."""
    store, package = drawbridge.store, Package({"main.wasm": b"x"})
    entry, content = package.nodes()[""]
    key = content_key(entry.workload_digest)
    await store.create(tag_name(slug).key(), Named(ENTRY_TYPE, entry.to_bytes()))
    # The garbage onto which the upload dedups.
    await store.put_content(key, io.BytesIO(content))

    async def put() -> None:
        await store.put_content(key, io.BytesIO(content))

    async def name() -> None:
        await store.create(node_name(slug, ()).key(), Named(ENTRY_TYPE, entry.to_bytes()))

    interleaved.calls = 0
    interleaved.at = {first: [put]}
    interleaved.at.setdefault(second, []).append(name)
    await collect(store, NOW)
    moments = interleaved.calls
    rest, interleaved.at = interleaved.at, {}
    for actions in rest.values():
        for action in actions:
            await action()
    assert await _read(store, key, entry.length) == content
    # The next one puts back what was put aside, and erases nothing that is named.
    await collect(store, NOW)
    assert await _read(store, key, entry.length) == content
    assert await store.stored(key) is not None
    assert (await check(store)).findings == ()
    return moments


def test_an_upload_at_every_moment_of_a_collection(
    slug: Slug, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fresh() -> MemoryDrawbridge:
        drawbridge = MemoryDrawbridge()
        assert drawbridge.put("/api/v0.1.0/jane", b'{"subject":"jane"}').status == 201
        assert drawbridge.put("/api/v0.1.0/jane/chat", b'{"public":true}').status == 201
        return drawbridge

    interleaved = _Interleaved(monkeypatch)
    moments = asyncio.run(_race(fresh(), slug, interleaved, 1000, 1000))
    assert moments >= 5
    for first in range(moments + 1):
        for second in range(first, moments + 1):
            asyncio.run(_race(fresh(), slug, interleaved, first, second))


def test_garbage_goes_in_two_runs_and_what_is_named_stays(
    drawbridge: MemoryDrawbridge, slug: Slug, package: Package
) -> None:
    drawbridge.publish(slug, package)
    garbage = content_key(bytes(32))
    asyncio.run(drawbridge.store.put_content(garbage, io.BytesIO(b"garbage")))
    assert asyncio.run(collect(drawbridge.store, DAY)) == Collected(waiting=1)
    assert asyncio.run(collect(drawbridge.store, NOW)) == Collected(put_aside=1)
    assert asyncio.run(_read(drawbridge.store, garbage, 7)) == b"garbage"
    assert asyncio.run(collect(drawbridge.store, DAY)) == Collected(waiting=1)
    erased = asyncio.run(collect(drawbridge.store, timedelta(seconds=-1)))
    assert erased == Collected(erased=1, erased_bytes=7)
    with pytest.raises(Damaged):
        asyncio.run(_read(drawbridge.store, garbage, 7))
    report = asyncio.run(check(drawbridge.store))
    assert (report.findings, report.unnamed, report.incomplete) == ((), 0, ())


def test_a_name_that_cannot_be_read_stops_it(drawbridge: MemoryDrawbridge, slug: Slug) -> None:
    key = node_name(slug, ()).key()
    asyncio.run(drawbridge.store.create(key, Named(ENTRY_TYPE, b"{}")))
    with pytest.raises(Rejected, match="nothing is removed") as caught:
        asyncio.run(collect(drawbridge.store, NOW))
    assert caught.value.field == key


def test_a_run_that_was_suspended_removes_nothing(drawbridge: MemoryDrawbridge) -> None:
    garbage = content_key(bytes(32))
    asyncio.run(drawbridge.store.put_content(garbage, io.BytesIO(b"garbage")))
    stored = asyncio.run(drawbridge.store.stored(garbage))
    assert stored is not None
    # S3 tells the time in whole seconds.
    while asyncio.run(drawbridge.store.now()) <= stored.modified:
        time.sleep(0.05)
    # Any age counts as old, and the clock leaps between the copy and the removal.
    clock = iter([0.0, 100.0])
    with pytest.raises(Unavailable, match="took too long"):
        asyncio.run(
            collect(drawbridge.store, timedelta(microseconds=1), monotonic=lambda: next(clock))
        )
    assert asyncio.run(drawbridge.store.stored(garbage)) is not None


def test_files_of_killed_writers(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    (tmp_path / "content").mkdir()
    staged = tmp_path / "content" / f"{'00' * 32}#1"
    staged.write_bytes(b"half")
    assert asyncio.run(collect(store, DAY)).leftovers == 0
    assert asyncio.run(collect(store, timedelta(seconds=-1))).leftovers == 1
    assert not staged.exists()
