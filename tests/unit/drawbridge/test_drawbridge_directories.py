"""The directories that a drawbridge keeps in memory: bounded, whatever users put into them."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import tracemalloc
from typing import TYPE_CHECKING

from garrison.drawbridge.directories import Directories
from garrison.drawbridge.layout import content_key
from garrison.drawbridge.named import Damaged
from garrison.drawbridge.store import Store
from garrison.formats.content_digest import ContentDigest
from garrison.formats.tree import DIRECTORY_TYPE, ENTRY_TYPE, OTHER_TYPE, Directory, Entry

if TYPE_CHECKING:
    import pytest

    from garrison.testing.drawbridge import Answer, MemoryDrawbridge

SECONDS = 60
FILE = Entry.of(b"file", OTHER_TYPE)


def put(store: Store, content: bytes) -> Entry:
    """Store the content of a directory, as an upload does."""
    entry = Entry.of(content, DIRECTORY_TYPE)
    asyncio.run(store.put_content(content_key(entry.workload_digest), io.BytesIO(content)))
    return entry


def test_what_a_directory_lists() -> None:
    store = Store.in_memory()
    listed = Directory({"a": FILE, "b": Entry.of(b"{}", DIRECTORY_TYPE)})
    entry = put(store, listed.to_bytes())
    directories = Directories(store)
    for _ in range(2):
        assert asyncio.run(directories.get(entry)) == listed


def test_custom_members_are_not_kept_in_memory() -> None:
    store = Store.in_memory()
    filler = json.dumps({f"{number:x}": number for number in range(70_000)})
    entries = []
    for number in range(5):
        # Some 10 MB each in memory, and one name.
        listed = {"f": {**Entry.of(b"%d" % number, OTHER_TYPE).to_json(), "x": json.loads(filler)}}
        content = json.dumps(listed, separators=(",", ":"), sort_keys=True).encode()
        entries.append(put(store, content))
        del listed, content
    directories = Directories(store)
    tracemalloc.start()
    try:
        for entry in entries:
            found = asyncio.run(directories.get(entry))
            assert list(found.entries) == ["f"]
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 10 << 20


class Slow:
    """In place of `Directory.from_bytes`: takes as long as a test says.

    Attributes:
        begun: somebody reads a directory.
        go_on: who reads goes on.
        came: how many were read.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go_on, self.came = threading.Event(), threading.Event(), 0
        self._read = Directory.from_bytes
        monkeypatch.setattr(Directory, "from_bytes", self)

    def __call__(self, data: bytes) -> Directory:
        self.came += 1
        self.begun.set()
        assert self.go_on.wait(SECONDS), "nobody else was answered meanwhile"
        return self._read(data)

    async def until_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, SECONDS)


LONG = Directory({f"file-{number:03}": FILE for number in range(100)})
TREE = "/api/v0.1.0/jane/chat/_tag/1.0.0"


async def _put(drawbridge: MemoryDrawbridge, path: str, body: bytes, media_type: str) -> Answer:
    headers = {
        "content-type": media_type,
        "content-length": str(len(body)),
        "content-digest": ContentDigest.of(body).to_header(),
    }
    return await drawbridge.send("PUT", path, body=[body], headers=headers, user="jane")


def test_while_a_long_directory_is_read_others_are_answered(
    drawbridge: MemoryDrawbridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = Entry.of(LONG.to_bytes(), DIRECTORY_TYPE)
    assert drawbridge.put(TREE, tag.to_bytes(), ENTRY_TYPE).status == 201

    async def put_and_get(path: str, body: bytes, media_type: str) -> None:
        slow = Slow(monkeypatch)
        putting = asyncio.create_task(_put(drawbridge, path, body, media_type))
        await slow.until_begun()
        answer = await drawbridge.send("GET", TREE)
        assert (answer.status, putting.done()) == (200, False)
        slow.go_on.set()
        assert (await putting).status == 201
        monkeypatch.undo()

    # When it is put, and when what it lists is put.
    asyncio.run(put_and_get(f"{TREE}/tree", LONG.to_bytes(), DIRECTORY_TYPE))
    asyncio.run(put_and_get(f"{TREE}/tree/file-000", b"file", OTHER_TYPE))


def test_those_who_come_together_read_it_once_though_the_first_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Store.in_memory()
    entry = put(store, LONG.to_bytes())
    slow = Slow(monkeypatch)

    async def ask() -> list[Directory]:
        directories = Directories(store)
        first, *others = [asyncio.create_task(directories.get(entry)) for _ in range(10)]
        await slow.until_begun()
        first.cancel()
        slow.go_on.set()
        return await asyncio.gather(*others)

    assert asyncio.run(ask()) == [LONG] * 9
    assert slow.came == 1


def test_what_fails_is_tried_again_by_who_comes_later() -> None:
    store = Store.in_memory()
    entry = Entry.of(LONG.to_bytes(), DIRECTORY_TYPE)

    async def ask() -> Directory:
        directories = Directories(store)
        failures = await asyncio.gather(
            *(directories.get(entry) for _ in range(3)), return_exceptions=True
        )
        assert [type(failure) for failure in failures] == [Damaged] * 3
        await store.put_content(content_key(entry.workload_digest), io.BytesIO(LONG.to_bytes()))
        return await directories.get(entry)

    assert asyncio.run(ask()) == LONG
