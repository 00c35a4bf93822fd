"""What a store in a folder does by itself: it is the files that count, whatever is in memory."""

from __future__ import annotations

import asyncio
import errno
import gc
import hashlib
import os
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
import pytest

from garrison.drawbridge import folder as folder_module
from garrison.drawbridge.folder import Folder
from garrison.drawbridge.layout import content_key, tag_name
from garrison.drawbridge.named import Damaged, Named, StorageFailure
from garrison.drawbridge.store import SPOOL, Store
from garrison.formats.slug import MAX_TAG_NAME, Slug
from garrison.formats.tree import DIRECTORY_TYPE, ENTRY_TYPE, Package
from garrison.testing.drawbridge import MemoryDrawbridge, served

if TYPE_CHECKING:
    import io
    from collections.abc import Callable

DATA = os.urandom(2 * SPOOL + 17)
KEY = content_key(hashlib.sha256(DATA).digest())
NAME = "tags/jane/chat/1.0.0"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path)


def _unnamed(directory: Path) -> io.BufferedRandom:
    try:
        return os.fdopen(os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o600), "w+b")
    except OSError:
        pytest.skip("needs a file system with O_TMPFILE")


def _read(store: Store, part: tuple[int, int] | None = None) -> bytes:
    async def read() -> bytes:
        pieces = await store.content(KEY, len(DATA), part)
        return b"".join([piece async for piece in pieces])

    return asyncio.run(read())


def _put(store: Store, file: io.BufferedRandom) -> None:
    with file:
        file.write(DATA)
        asyncio.run(store.put_content(KEY, file))


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EOPNOTSUPP])
def test_what_is_not_in_memory_is_read_in_a_thread(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    _put(store, _unnamed(Path(store.spool or "")))
    asked: list[int] = []

    def short_then_nothing(descriptor: int, buffers: list[bytearray], start: int, _: int) -> int:
        """Some of it is in memory, and then none."""
        asked.append(start)
        if start:
            raise OSError(number, "not now")
        return real(descriptor, [memoryview(buffers[0])[:1000]], start)

    real = os.preadv
    monkeypatch.setattr(os, "preadv", short_then_nothing)
    assert _read(store, (0, 60_000)) == DATA[:60_000]
    assert asked == [0, 1000]
    assert _read(store, (7, 10_000)) == DATA[7:10_000]
    del asked[:]
    assert _read(store) == DATA
    # What is long comes in pieces, and each is tried.
    assert (asked[0], asked[1]) == (0, 1000)
    assert all(0 < asked[i + 1] - asked[i] <= 1 << 18 for i in range(2, len(asked) - 1))


def test_a_disk_that_fails_is_a_failure_of_the_store(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _put(store, _unnamed(Path(store.spool or "")))

    def failing(number: int) -> Callable[..., int]:
        def fail(*_: object) -> int:
            raise OSError(number, "broken")

        return fail

    for part in ((0, 100), None):
        with monkeypatch.context() as patched:
            patched.setattr(os, "preadv", failing(errno.EIO))
            with pytest.raises(StorageFailure):
                _read(store, part)
            # And in a thread.
            patched.setattr(os, "preadv", failing(errno.EAGAIN))
            assert _read(store, part) == (DATA[:100] if part else DATA)
            patched.setattr(os, "pread", failing(errno.EIO))
            with pytest.raises(StorageFailure):
                _read(store, part)


def test_a_reader_that_leaves_in_the_middle(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a thread reads then fails to nobody's notice, and the file is closed."""
    _put(store, _unnamed(Path(store.spool or "")))
    started, may_fail = threading.Event(), threading.Event()
    real = os.pread

    def preadv(*_: object) -> int:
        raise OSError(errno.EAGAIN, "not now")

    def pread(descriptor: int, wanted: int, start: int) -> bytes:
        if not start:
            return real(descriptor, wanted, start)
        started.set()
        assert may_fail.wait(60)
        # It is open still, though nobody waits for it.
        assert os.fstat(descriptor).st_size == len(DATA)
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(os, "pread", pread)
    complaints: list[dict[str, object]] = []

    async def read() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        pieces = await store.content(KEY, len(DATA))
        piece = await anext(pieces)
        assert bytes(piece) == DATA[: len(piece)]
        reader = asyncio.ensure_future(anext(pieces))
        await asyncio.to_thread(started.wait, 60)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        may_fail.set()
        await loop.shutdown_default_executor()

    asyncio.run(read())
    gc.collect()
    assert complaints == []
    opened = {path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}
    assert tmp_path / KEY not in opened


def test_an_upload_is_not_copied(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _unnamed(tmp_path)
    inode = os.fstat(file.fileno()).st_ino
    with monkeypatch.context() as patched:
        patched.delattr(obstore, "put_async")
        _put(store, file)
    assert (tmp_path / KEY).stat().st_ino == inode
    assert _read(store) == DATA
    assert [path.name for path in (tmp_path / "content").iterdir()] == [KEY.rpartition("/")[2]]


def test_an_upload_from_elsewhere_is_copied(store: Store) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(DATA)
        asyncio.run(store.put_content(KEY, file))
    assert _read(store) == DATA


def test_damaged_content_is_mended(store: Store, tmp_path: Path) -> None:
    _put(store, _unnamed(tmp_path))
    (tmp_path / KEY).write_bytes(b"damaged")
    with pytest.raises(Damaged):
        _read(store)
    _put(store, _unnamed(tmp_path))
    assert _read(store) == DATA


@pytest.mark.parametrize(
    "part", [(0, 1), (5, 700_000), (len(DATA) - 1, len(DATA)), (0, len(DATA))], ids=str
)
def test_parts(store: Store, tmp_path: Path, part: tuple[int, int]) -> None:
    _put(store, _unnamed(tmp_path))
    assert _read(store, part) == DATA[slice(*part)]


def test_content_that_becomes_shorter_while_it_is_read(store: Store, tmp_path: Path) -> None:
    _put(store, _unnamed(tmp_path))

    async def read() -> None:
        pieces = await store.content(KEY, len(DATA))
        await anext(pieces)
        os.truncate(tmp_path / KEY, 10)
        async for _ in pieces:
            """Until it ends."""

    with pytest.raises(Damaged):
        asyncio.run(read())


def test_names_are_those_of_the_files(store: Store, tmp_path: Path) -> None:
    assert asyncio.run(store.named(NAME)) is None
    asyncio.run(store.create(NAME, Named("a/b", b"one")))
    for _ in range(2):
        assert asyncio.run(store.named(NAME)) == Named("a/b", b"one")
    (tmp_path / NAME).write_bytes(b"a/b\ntwo")
    assert asyncio.run(store.named(NAME)) == Named("a/b", b"two")
    (tmp_path / NAME).write_bytes(b"nonsense")
    with pytest.raises(Damaged):
        asyncio.run(store.named(NAME))
    (tmp_path / NAME).unlink()
    assert asyncio.run(store.named(NAME)) is None


def test_the_longest_names_fit(tmp_path: Path) -> None:
    """A file's name has 255 bytes, and a path 4096: of what is longer there is nothing."""
    drawbridge = MemoryDrawbridge(Store.open(tmp_path))
    user, repo = "u" * 128, "r" * 128
    assert drawbridge.put(f"/api/v0.1.0/{user}", b'{"subject":"jane"}').status == 201
    assert drawbridge.put(f"/api/v0.1.0/{user}/{repo}", b'{"public":true}').status == 201
    slug = Slug("d.test", user, repo, f"1.0.0-{'a' * (MAX_TAG_NAME - 6)}")
    package = Package({"main.wasm": b"", f"{'d' * 255}/{'f' * 255}": b"deep"})
    drawbridge.publish(slug, package)
    for path, (_, content) in served(slug, package).items():
        assert drawbridge.request("GET", path).body == content
    tag = f"/api/v0.1.0/{user}/{repo}/_tag/{slug.tag}"
    assert drawbridge.request("GET", f"{tag}a").status == 400
    deep = "/".join(["d" * 255] * 16)
    assert drawbridge.request("GET", f"{tag}/tree/{deep}", user="jane").status == 404


def test_what_is_kept_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "_MOST_KEPT", 2)
    folder, mark = Folder(tmp_path), (1, 2, 3, 4)
    for key in ("a", "b", "c"):
        folder.keep(key, mark, Named("a/b", key.encode()))
    folder.keep("long", mark, Named("a/b", bytes(100_000)))
    assert [folder.get(key, mark) is not None for key in ("a", "b", "c", "long")] == [
        False, True, True, False,
    ]  # fmt: skip
    assert folder.get("b", (1, 2, 3, 5)) is None


def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(StorageFailure):
        Folder(tmp_path).mark("loop")
    (tmp_path / "content").mkdir()
    (tmp_path / KEY).symlink_to(KEY.rpartition("/")[2])
    with pytest.raises(StorageFailure):
        asyncio.run(Folder(tmp_path).content(KEY, None))


def test_a_directory_that_was_changed_lists_nothing(
    store: Store, tmp_path: Path, slug: Slug, package: Package
) -> None:
    """Of the same length, and well formed: what it lists must not come into the tree."""
    drawbridge = MemoryDrawbridge(store)
    assert drawbridge.put("/api/v0.1.0/jane", b'{"subject":"jane"}').status == 201
    assert drawbridge.put("/api/v0.1.0/jane/chat", b'{"public":true}').status == 201
    nodes = package.nodes()
    tag = tag_name(slug).url_path()
    assert drawbridge.put(tag, nodes[""][0].to_bytes(), ENTRY_TYPE).status == 201
    root = nodes[""][1]
    assert drawbridge.put(f"{tag}/tree", root, DIRECTORY_TYPE).status == 201
    content = tmp_path / content_key(hashlib.sha256(root).digest())
    content.write_bytes(root.replace(b"main.wasm", b"evil.wasm"))
    wasm = package.files["main.wasm"]
    for name in ("main.wasm", "evil.wasm"):
        assert drawbridge.put(f"{tag}/tree/{name}", wasm, "application/wasm").status == 500
    content.write_bytes(root)
    assert drawbridge.put(f"{tag}/tree/main.wasm", wasm, "application/wasm").status == 201
    # It is in memory now, by its digest: what becomes of the file changes nothing.
    content.write_bytes(root.replace(b"sub", b"bus"))
    answer = drawbridge.put(f"{tag}/tree/bus", nodes["sub"][1], DIRECTORY_TYPE)
    assert (answer.status, "not listed" in answer.text) == (400, True)
