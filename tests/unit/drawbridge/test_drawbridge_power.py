"""A machine that loses power: a store in a folder has all that was acknowledged, and nothing half.

A disk is played (`garrison.testing.power`), and what is left whenever its power goes is looked at.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import os
import random
import tempfile
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from garrison.drawbridge import folder_flush
from garrison.drawbridge.folder_flush import Flushes
from garrison.drawbridge.fsck import check
from garrison.drawbridge.gc import collect
from garrison.drawbridge.layout import content_key, node_name, tag_name
from garrison.drawbridge.named import Exists, Named, StorageFailure
from garrison.drawbridge.store import SPOOL, Store
from garrison.errors import Misuse
from garrison.formats.content_digest import ContentDigest
from garrison.formats.slug import Slug
from garrison.formats.tree import Package
from garrison.testing.drawbridge import JSON, MemoryDrawbridge, served
from garrison.testing.power import Disk, put_back

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGE = random.Random(3).randbytes(SPOOL + 5)  # noqa: S311  (content of a test)
SECONDS = 60.0


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    (tmp_path / "objects").mkdir()
    disk = Disk(tmp_path / "objects", monkeypatch, main_may_wait=False)
    yield disk
    disk.close()


@pytest.fixture
def drawbridge(disk: Disk) -> MemoryDrawbridge:
    return MemoryDrawbridge(Store.open(disk.folder))


async def put(drawbridge: MemoryDrawbridge, disk: Disk, path: str, body: bytes,
              media_type: str = JSON) -> int:  # fmt: skip
    """PUT, and take note of what was acknowledged."""
    headers = {
        "content-type": media_type,
        "content-length": str(len(body)),
        "content-digest": ContentDigest.of(body).to_header(),
    }
    answer = await drawbridge.send("PUT", path, body=[body], headers=headers, user="jane")
    if answer.status == 201:
        disk.acknowledged[path] = body
    return answer.status


async def publish(drawbridge: MemoryDrawbridge, disk: Disk, slug: Slug, package: Package) -> None:
    for path, (entry, content) in served(slug, package).items():
        assert await put(drawbridge, disk, path, content, entry.type) == 201


async def begin(drawbridge: MemoryDrawbridge, disk: Disk) -> None:
    assert await put(drawbridge, disk, "/api/v0.1.0/jane", b'{"subject":"jane"}') == 201
    assert await put(drawbridge, disk, "/api/v0.1.0/jane/chat", b'{"public":true}') == 201


def examine(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at what is left at each moment: nothing that is named is damaged, or lost again."""
    monkeypatch.undo()
    disk.power_goes()
    issuer = MemoryDrawbridge().issuer
    for index, (left, acknowledged) in enumerate(disk.moments):
        # Started anew with what is left. The issuer is the same, for its key takes a while.
        put_back(left, tmp_path / str(index))
        store = Store.open(tmp_path / str(index))
        drawbridge = MemoryDrawbridge(store, issuer=issuer)
        # Content without a name may be anything: it is replaced when it is stored again.
        named = [
            finding
            for finding in asyncio.run(check(drawbridge.store)).findings
            if not finding.key.startswith("content/")
        ]
        assert named == [], f"moment {index}"
        for path, body in acknowledged.items():
            assert drawbridge.request("GET", path, user="jane").body == body, f"moment {index}"


def test_a_loss_of_power_at_any_moment_of_a_publication(
    drawbridge: MemoryDrawbridge, disk: Disk, slug: Slug, package: Package, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    async def run() -> None:
        await begin(drawbridge, disk)
        await publish(drawbridge, disk, slug, Package({**package.files, "large": LARGE}))

    asyncio.run(run())
    assert len(disk.acknowledged) == 9
    assert len(disk.moments) > 30
    examine(disk, tmp_path, monkeypatch)


def test_a_loss_of_power_while_many_publish_the_same(
    drawbridge: MemoryDrawbridge, disk: Disk, package: Package, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """What one has put is put again by others, and none of them spoils it for the first."""

    async def run() -> None:
        await begin(drawbridge, disk)
        slugs = [Slug.parse(f"d.test/jane/chat:{number}.0.0") for number in range(2)]
        await asyncio.gather(*(publish(drawbridge, disk, slug, package) for slug in slugs))

    asyncio.run(run())
    assert len(disk.acknowledged) == 2 + 2 * 6
    examine(disk, tmp_path, monkeypatch)


def test_readers_flush_nothing(
    drawbridge: MemoryDrawbridge, disk: Disk, slug: Slug, package: Package
) -> None:
    asyncio.run(begin(drawbridge, disk))
    asyncio.run(publish(drawbridge, disk, slug, package))
    del disk.flushed[:]
    for path in served(slug, package):
        for method in ("GET", "HEAD"):
            assert drawbridge.request(method, path).status == 200
    assert drawbridge.request("GET", "/api/v0.1.0/jane/chat/_tag").status == 200
    assert drawbridge.request("GET", "/api/v0.1.0/?q=chat").status == 200
    assert disk.flushed == []


def test_what_never_changes_is_flushed_once(
    drawbridge: MemoryDrawbridge, disk: Disk, slug: Slug
) -> None:
    asyncio.run(begin(drawbridge, disk))
    names = ["main.wasm", *(f"file{number}" for number in range(4))]
    asyncio.run(publish(drawbridge, disk, slug, Package({name: name.encode() for name in names})))
    top, tag = str(disk.folder), f"{disk.folder}/trees/jane/chat/{slug.tag}"
    # Each made another directory in these.
    assert disk.flushed.count(tag) == 1 + len(names)
    # For `users`, `repos`, `tags`, `trees` and `content`.
    assert disk.flushed.count(top) == 5
    for path in (f"{top}/trees", f"{top}/trees/jane", f"{top}/trees/jane/chat", f"{top}/tags/jane"):
        assert disk.flushed.count(path) == 1, path


def test_a_policy_is_the_old_or_the_new_one(
    drawbridge: MemoryDrawbridge, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, key = "/api/v0.1.0/jane/chat/_policy", "policies/jane/chat"
    asyncio.run(begin(drawbridge, disk))
    old, new = b'{"public":false}', b'{"public":true}'
    assert drawbridge.put(path, old).status == 201
    assert disk.least()[key].endswith(b"\n" + old)
    del disk.moments[:]
    assert drawbridge.put(path, new).status == 200
    assert disk.least()[key].endswith(b"\n" + new)
    seen = {left[key].partition(b"\n")[2] for left, _ in disk.moments}
    assert seen == {old, new}
    examine(disk, tmp_path, monkeypatch)


def test_a_yank_that_was_taken_back_does_not_return(
    drawbridge: MemoryDrawbridge, disk: Disk, slug: Slug, package: Package
) -> None:
    asyncio.run(begin(drawbridge, disk))
    asyncio.run(publish(drawbridge, disk, slug, package))
    path, key = tag_name(slug).yank().url_path(), tag_name(slug).yank().key()
    # There never was one in this repository: the directory is not there.
    assert drawbridge.request("DELETE", path, user="jane").status == 204
    for _ in range(2):
        assert drawbridge.put(path, b'{"reason":"old"}').status == 201
        assert key in disk.least()
        assert drawbridge.request("DELETE", path, user="jane").status == 204
        assert key not in disk.least()


@pytest.mark.parametrize("part", ["/content", "/n#", "/trees/jane/chat", "/main.wasm"])
@pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL, errno.ENOSPC])
def test_what_cannot_be_flushed_is_not_acknowledged(
    drawbridge: MemoryDrawbridge, disk: Disk, slug: Slug, package: Package, part: str, number: int,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A file; a directory; one above it."""
    package = Package({**package.files, "main.wasm": LARGE if part == "/n#" else b"short"})
    nodes = served(slug, package)
    path = node_name(slug, ("main.wasm",)).url_path()
    entry, content = nodes.pop(path)

    async def run() -> None:
        await begin(drawbridge, disk)
        for other, (listed, body) in nodes.items():
            assert await put(drawbridge, disk, other, body, listed.type) == 201
        disk.broken = lambda path: number if part in path else None
        for _ in range(2):
            assert await put(drawbridge, disk, path, content, entry.type) == 500
        # Files that never had their name do not stay.
        assert [found for found in disk.folder.rglob("*#*") if found.is_file()] == []
        disk.broken = lambda _: None
        # The name may have been given before its directory failed.
        assert await put(drawbridge, disk, path, content, entry.type) in {201, 409}
        disk.acknowledged[path] = content

    if part == "/trees/jane/chat":
        # It is known to be there, but for what is in the tag.
        part = f"/trees/jane/chat/{slug.tag}"
    asyncio.run(run())
    examine(disk, tmp_path, monkeypatch)


def test_a_name_that_is_taken_is_flushed_before_that_is_said(
    drawbridge: MemoryDrawbridge, disk: Disk, slug: Slug, package: Package
) -> None:
    """Whoever put it may not have waited for that, or have been killed; the client relies on it."""
    asyncio.run(begin(drawbridge, disk))
    asyncio.run(publish(drawbridge, disk, slug, package))
    for path, key in (
        (node_name(slug, ("main.wasm",)), node_name(slug, ("main.wasm",)).key()),
        (tag_name(slug), tag_name(slug).key()),
    ):
        stored = disk.folder / key
        content = stored.read_bytes()
        # As another process writes it: a file and a directory's entry that the disk has not got.
        stored.unlink()
        asyncio.run(drawbridge.store.remove(key))
        stored.write_bytes(content)
        assert key not in disk.least()
        entry, body = served(slug, package)[path.url_path()]
        assert asyncio.run(put(drawbridge, disk, path.url_path(), body, entry.type)) == 409
        assert disk.least()[key] == content
        # And it is not said if that fails.
        disk.broken = lambda _: errno.EIO
        assert asyncio.run(put(drawbridge, disk, path.url_path(), body, entry.type)) == 500
        disk.broken = lambda _: None


def test_a_name_that_goes_while_it_is_taken(drawbridge: MemoryDrawbridge, disk: Disk) -> None:
    """Somebody takes the yank back whom another's finds there."""
    store, key = drawbridge.store, "yanks/jane/chat/1.0.0"
    asyncio.run(store.create(key, Named(JSON, b"{}")))

    def gone(path: str) -> None:
        if path.endswith(key):
            Path(path).unlink()

    disk.broken = gone
    with pytest.raises(Exists):
        asyncio.run(store.create(key, Named(JSON, b"{}")))


def test_a_collection_loses_no_content(
    drawbridge: MemoryDrawbridge, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is put aside before it is removed from where it was, whatever the disk does first."""
    digest = hashlib.sha256(b"garbage").digest()
    key = content_key(digest)
    asyncio.run(drawbridge.store.put_content(key, io.BytesIO(b"garbage")))
    del disk.moments[:]
    assert asyncio.run(collect(drawbridge.store, timedelta(0))).put_aside == 1
    disk.power_goes()
    moments = [left for left, _ in disk.moments]
    assert len(moments) >= 3
    monkeypatch.undo()
    for index, left in enumerate(moments):
        put_back(left, tmp_path / str(index))
        store = Store.open(tmp_path / str(index))

        async def read(store: Store = store) -> bytes:
            return b"".join([piece async for piece in await store.content(key, 7)])

        assert asyncio.run(read()) == b"garbage", f"moment {index}"


def test_a_store_whose_folder_cannot_be_flushed_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EINVAL, "cannot")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(Misuse, match="store: cannot be opened"):
        Store.open(tmp_path / "new")


def test_a_drawbridge_is_not_ready_where_nothing_can_be_flushed(disk: Disk) -> None:
    store = Store.open(disk.folder)
    asyncio.run(store.check())
    for kind in (lambda path: path.endswith("/probes"), lambda path: "/probes/" in path):
        disk.broken = lambda path, kind=kind: errno.EINVAL if kind(path) else None  # type: ignore[misc]
        with pytest.raises(StorageFailure):
            asyncio.run(store.check())
    assert [*(disk.folder / "probes").iterdir()] == []


def test_a_store_that_is_taken_away_is_not_begun_anew(disk: Disk) -> None:
    """As a disk that is not mounted any more: below its place nothing is to be kept."""
    store = Store.open(disk.folder)
    disk.folder.rmdir()
    with pytest.raises(StorageFailure):
        asyncio.run(store.create("users/jane", Named(JSON, b"{}")))
    assert not disk.folder.exists()


def test_who_goes_away_does_not_end_what_was_begun(disk: Disk) -> None:
    """The file that it has open is another's by then, if the number of it is all that is kept."""
    store = Store.open(disk.folder)
    key, data = content_key(hashlib.sha256(LARGE).digest()), LARGE
    begun, may_end = threading.Event(), threading.Event()

    def wait(_: str) -> None:
        begun.set()
        assert may_end.wait(SECONDS)

    disk.broken = wait

    async def run() -> None:
        with tempfile.TemporaryFile() as file:
            file.write(data)
            task = asyncio.create_task(store.put_content(key, file))
            assert await asyncio.to_thread(begun.wait, SECONDS)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        number = os.open(os.devnull, os.O_RDONLY)
        may_end.set()
        end = time.monotonic() + SECONDS
        while key not in disk.least():
            assert time.monotonic() < end
            await asyncio.sleep(0.001)
        os.close(number)

    asyncio.run(run())
    assert disk.least()[key] == data


class _Begun(list[str]):
    """In place of a flush: which were begun, and how they end."""

    error: OSError | None = None

    def flush(self, path: str) -> None:
        self.append(path)
        if self.error is not None:
            raise self.error


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> _Begun:
    begun = _Begun()
    monkeypatch.setattr(folder_flush, "flush", begun.flush)
    return begun


def test_what_failed_is_not_taken_for_known(begun: _Begun) -> None:
    flushes = Flushes("/top")
    begun.error = OSError(errno.EIO, "on fire")
    with pytest.raises(OSError, match="on fire"):
        flushes.entries("/top/a")
    begun.error = None
    flushes.entries("/top/a")
    assert begun == ["/top/a", "/top/a", "/top"]


def test_what_is_known_is_bounded_and_forgotten_when_it_is_made_anew(
    begun: _Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_flush, "_MOST_KNOWN", 3)
    flushes = Flushes("/top")

    def flushed(path: str) -> list[str]:
        del begun[:]
        flushes.entries(path)
        return begun

    assert flushed("/top/a/b") == ["/top/a/b", "/top/a", "/top"]
    assert flushed("/top/a/b") == ["/top/a/b"]
    assert flushed("/top/a/c") == ["/top/a/c", "/top/a"]
    # `/top/a` was needed again, and so `/top` or `/top/a/b` went, and not that.
    assert flushed("/top/a/d") == ["/top/a/d", "/top/a"]
    flushes.made("/top/a")
    assert flushed("/top/a") == ["/top/a", "/top"]
