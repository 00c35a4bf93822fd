"""Uploads that fail, race and are repeated; and a store that somebody tampered with."""

from __future__ import annotations

import asyncio
import errno
import io
import os
from typing import TYPE_CHECKING

import obstore
import pytest
from obstore.exceptions import GenericError
from starlette.requests import ClientDisconnect

from garrison.drawbridge import uploads
from garrison.drawbridge.layout import content_key
from garrison.drawbridge.named import Named, StorageFailure
from garrison.drawbridge.store import Store
from garrison.errors import Misuse
from garrison.formats.content_digest import ContentDigest
from garrison.formats.tree import DIRECTORY_TYPE, ENTRY_TYPE, Package
from garrison.testing.drawbridge import MemoryDrawbridge, served

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from _typeshed import ReadableBuffer

    from garrison.formats.slug import Slug

API = "/api/v0.1.0"
TAG = f"{API}/jane/chat/_tag/1.0.0"
WASM = f"{TAG}/tree/main.wasm"


@pytest.fixture(params=["memory", "folder", "s3"])
def store(request: pytest.FixtureRequest, open_store: Callable[[str], Store]) -> Store:
    return open_store(request.param)


@pytest.fixture
def drawbridge(store: Store) -> MemoryDrawbridge:
    drawbridge = MemoryDrawbridge(store)
    assert drawbridge.put(f"{API}/jane", b'{"subject":"jane"}').status == 201
    assert drawbridge.put(f"{API}/jane/chat", b'{"public":true}').status == 201
    return drawbridge


def headers(content: bytes, kind: str) -> dict[str, str]:
    return {
        "content-type": kind,
        "content-length": str(len(content)),
        "content-digest": ContentDigest.of(content).to_header(),
    }


def test_an_interrupted_upload_leaves_nothing_and_can_be_repeated(
    drawbridge: MemoryDrawbridge, slug: Slug, package: Package
) -> None:
    for path, (entry, content) in served(slug, package).items():
        for pieces in ([], [content[: len(content) // 2]]):
            with pytest.raises(ClientDisconnect):
                drawbridge.request(
                    "PUT",
                    path,
                    body=pieces,
                    headers=headers(content, entry.type),
                    user="jane",
                    disconnect=True,
                )
            assert drawbridge.request("GET", path).status == 404
        assert drawbridge.put(path, content, entry.type).status == 201
        assert drawbridge.request("GET", path).body == content


def test_an_upload_in_many_pieces(drawbridge: MemoryDrawbridge) -> None:
    content = bytes(range(256)) * 8192
    package = Package({"main.wasm": content})
    drawbridge.put(TAG, package.entry.to_bytes(), ENTRY_TYPE)
    drawbridge.put(f"{TAG}/tree", package.nodes()[""][1], DIRECTORY_TYPE)
    pieces = [content[i : i + 65_536] for i in range(0, len(content), 65_536)]
    answer = drawbridge.request(
        "PUT", WASM, body=pieces, headers=headers(content, "application/wasm"), user="jane"
    )
    assert answer.status == 201
    assert drawbridge.request("GET", WASM).body == content


def test_one_of_many_racing_creators_has_the_tag(drawbridge: MemoryDrawbridge) -> None:
    packages = [Package({"main.wasm": bytes([index])}) for index in range(8)]

    async def race() -> list[int]:
        requests = []
        for package in packages:
            body = package.entry.to_bytes()
            requests.append(
                drawbridge.send(
                    "PUT", TAG, body=[body], headers=headers(body, ENTRY_TYPE), user="jane"
                )
            )
        return [answer.status for answer in await asyncio.gather(*requests)]

    statuses = asyncio.run(race())
    assert sorted(statuses) == [201, *[409] * 7]
    winner = packages[statuses.index(201)]
    assert drawbridge.request("GET", TAG).body == winner.entry.to_bytes()


def test_two_drawbridges_share_one_store(
    drawbridge: MemoryDrawbridge, slug: Slug, package: Package
) -> None:
    other = MemoryDrawbridge(drawbridge.store)
    drawbridge.publish(slug, package)
    for path, (_, content) in served(slug, package).items():
        assert other.request("GET", path).body == content


def test_content_is_stored_once(tmp_path: Path, slug: Slug, package: Package) -> None:
    drawbridge = MemoryDrawbridge(Store.open(tmp_path))
    drawbridge.put(f"{API}/jane", b'{"subject":"jane"}')
    drawbridge.put(f"{API}/jane/chat", b'{"public":true}')
    drawbridge.publish(slug, package)
    before = sorted((tmp_path / "content").iterdir())
    again = type(slug)(slug.host, slug.user, slug.repo, "1.0.1")
    drawbridge.publish(again, package)
    assert sorted((tmp_path / "content").iterdir()) == before


def test_knowing_a_digest_does_not_give_the_content(
    drawbridge: MemoryDrawbridge, slug: Slug, package: Package
) -> None:
    """A tag may list anything; what was not uploaded there is not served there."""
    drawbridge.publish(slug, package)
    drawbridge.put(f"{API}/eve", b'{"subject":"eve"}', user="eve")
    drawbridge.put(f"{API}/eve/chat", b'{"public":true}', user="eve")
    tag = f"{API}/eve/chat/_tag/1.0.0"
    root = package.nodes()[""][1]
    assert drawbridge.put(tag, package.entry.to_bytes(), ENTRY_TYPE, user="eve").status == 201
    assert drawbridge.put(f"{tag}/tree", root, DIRECTORY_TYPE, user="eve").status == 201
    assert drawbridge.request("GET", f"{tag}/tree/main.wasm").status == 404


class TestTampering:
    """What the folder of a store holds was changed behind the drawbridge's back."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path / "store"

    @pytest.fixture
    def published(self, folder: Path, slug: Slug, package: Package) -> MemoryDrawbridge:
        drawbridge = MemoryDrawbridge(Store.open(folder))
        drawbridge.put(f"{API}/jane", b'{"subject":"jane"}')
        drawbridge.put(f"{API}/jane/chat", b'{"public":true}')
        drawbridge.publish(slug, package)
        return drawbridge

    def content(self, folder: Path, package: Package) -> Path:
        entry = package.nodes()["main.wasm"][0]
        return folder / content_key(entry.digest.values["sha-256"])

    @pytest.mark.parametrize("change", [b"", b"short", b"x" * 5000])
    def test_content_of_another_length_is_a_failure_of_the_store(
        self, published: MemoryDrawbridge, folder: Path, package: Package, change: bytes
    ) -> None:
        self.content(folder, package).write_bytes(change)
        answer = published.request("GET", WASM)
        assert (answer.status, answer.text) == (500, "Storage backend failure")

    def test_content_that_is_gone_is_a_failure_of_the_store(
        self, published: MemoryDrawbridge, folder: Path, package: Package
    ) -> None:
        self.content(folder, package).unlink()
        assert published.request("GET", WASM).status == 500

    def test_a_name_that_no_drawbridge_wrote_is_a_failure_of_the_store(
        self, published: MemoryDrawbridge, folder: Path
    ) -> None:
        for path, key in (
            (WASM, "trees/jane/chat/1.0.0/main.wasm/@"),
            (TAG, "tags/jane/chat/1.0.0"),
        ):
            (folder / key).write_bytes(b"\xff\xff")
            assert published.request("GET", path).status == 500
            (folder / key).write_bytes(b"x" * 300_000)
            assert published.request("GET", path).status == 500

    def test_putting_content_again_mends_it(
        self, published: MemoryDrawbridge, folder: Path, package: Package
    ) -> None:
        self.content(folder, package).write_bytes(b"damaged")
        tag = f"{API}/jane/chat/_tag/1.0.1"
        published.put(tag, package.entry.to_bytes(), ENTRY_TYPE)
        published.put(f"{tag}/tree", package.nodes()[""][1], DIRECTORY_TYPE)
        wasm = package.files["main.wasm"]
        assert published.put(f"{tag}/tree/main.wasm", wasm, "application/wasm").status == 201
        assert published.request("GET", WASM).body == wasm


def test_a_store_that_fails_says_nothing_of_itself(
    drawbridge: MemoryDrawbridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        await asyncio.sleep(0)
        raise GenericError("s3://secret-bucket is on fire")

    def fail_to_flush(_: int) -> None:
        raise OSError(errno.EIO, "on fire", "/srv/secret")

    monkeypatch.setattr(os, "fsync", fail_to_flush)
    for name in ("get_async", "put_async", "list_with_delimiter_async"):
        monkeypatch.setattr(obstore, name, fail)
    for answer in (
        drawbridge.request("GET", TAG),
        drawbridge.put(f"{API}/mallory", b'{"subject":"m"}', user="m"),
        drawbridge.request("GET", f"{API}/jane/chat/_tag"),
    ):
        assert (answer.status, answer.text) == (500, "Storage backend failure")


def test_no_room_for_an_upload(
    drawbridge: MemoryDrawbridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device", "/var/tmp/secret")

    def full(*_: object) -> Full:
        return Full()

    with monkeypatch.context() as patched:
        patched.setattr(uploads, "_temporary", full)
        answer = drawbridge.put(f"{API}/mallory", b'{"subject":"m"}', user="m")
        assert (answer.status, answer.text) == (500, "Storage backend failure")
    assert drawbridge.put(f"{API}/mallory", b'{"subject":"m"}', user="m").status == 201


@pytest.mark.parametrize("failing", [1, 3, 9])
def test_no_room_for_the_rest_of_an_upload(
    drawbridge: MemoryDrawbridge, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    content = b"\0asm" * (9 << 18)
    package = Package({"main.wasm": content})
    drawbridge.put(TAG, package.entry.to_bytes(), ENTRY_TYPE)
    drawbridge.put(f"{TAG}/tree", package.nodes()[""][1], DIRECTORY_TYPE)
    closed_after: list[int] = []

    class Full(io.BytesIO):
        written = 0

        def write(self, data: ReadableBuffer) -> int:
            Full.written += 1
            if Full.written >= failing:
                raise OSError(errno.ENOSPC, "No space left on device", "/var/tmp/secret")
            return super().write(data)

        def close(self) -> None:
            closed_after.append(Full.written)
            super().close()

    with monkeypatch.context() as patched:
        patched.setattr(uploads, "_temporary", lambda *_: Full())
        answer = drawbridge.put(WASM, content, "application/wasm")
        assert (answer.status, answer.text) == (500, "Storage backend failure")
        # No thread is at the file when it is closed.
        assert closed_after[0] == Full.written
    assert drawbridge.request("GET", WASM).status == 404
    assert drawbridge.put(WASM, content, "application/wasm").status == 201
    assert drawbridge.request("GET", WASM).body == content


def test_a_long_upload_whose_end_is_another_leaves_nothing(drawbridge: MemoryDrawbridge) -> None:
    content = bytes(5 << 20)
    package = Package({"main.wasm": content})
    drawbridge.put(TAG, package.entry.to_bytes(), ENTRY_TYPE)
    drawbridge.put(f"{TAG}/tree", package.nodes()[""][1], DIRECTORY_TYPE)
    for other in (content[:-1] + b"x", content[:-1], content + b"x"):
        answer = drawbridge.request(
            "PUT", WASM, body=[other], headers=headers(content, "application/wasm"), user="jane"
        )
        assert answer.status == 400
        assert drawbridge.request("GET", WASM).status == 404
    assert drawbridge.put(WASM, content, "application/wasm").status == 201


def test_a_store_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for location in (tmp_path / "file" / "x", "nonsense://bucket"):
        with pytest.raises(Misuse, match=r"store: cannot be opened: [^\n]+\Z"):
            Store.open(location)


def test_what_is_read_from_a_name_is_what_was_stored() -> None:
    named = Named("a/b", b"\nbody\n")
    assert Named.from_bytes(named.to_bytes()) == named
    with pytest.raises(StorageFailure):
        Named.from_bytes(b"\xff\n")


def test_a_store_is_checked_and_the_probe_removed(store: Store, tmp_path: Path) -> None:
    async def check() -> list[str]:
        await store.check()
        return [item.key async for item in store.objects()]

    assert asyncio.run(check()) == []
    folder = tmp_path / "gone"
    lost = Store.open(folder)
    folder.rmdir()
    folder.write_bytes(b"no folder")
    with pytest.raises(StorageFailure):
        asyncio.run(lost.check())
